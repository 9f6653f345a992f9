CREATE TABLE `prices` (
	`version` integer PRIMARY KEY NOT NULL,
	`model` text,
	`backend_id` text,
	`prompt_micro_usd_per_million` integer NOT NULL,
	`cached_micro_usd_per_million` integer NOT NULL,
	`completion_micro_usd_per_million` integer NOT NULL,
	`effective_at_ms` integer NOT NULL,
	`created_at_ms` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `prices_by_scope` ON `prices` (`model`,`backend_id`,`effective_at_ms`,`version`);--> statement-breakpoint
CREATE TABLE `statements` (
	`account_id` text NOT NULL,
	`month` text NOT NULL,
	`request_count` integer NOT NULL,
	`fee_micro_usd` integer NOT NULL,
	`credited_micro_usd` integer NOT NULL,
	`digest` text NOT NULL,
	`closed_at_ms` integer NOT NULL,
	PRIMARY KEY(`account_id`, `month`)
);
