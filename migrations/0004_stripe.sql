CREATE TABLE `meter_events` (
	`identifier` text PRIMARY KEY NOT NULL,
	`account_id` text NOT NULL,
	`customer_id` text NOT NULL,
	`value_micro_usd` integer NOT NULL,
	`request_count` integer NOT NULL,
	`last_completed_at_ms` integer NOT NULL,
	`planned_at_ms` integer NOT NULL,
	`attempted_at_ms` integer,
	`unclear_since_ms` integer,
	`server_error_count` integer NOT NULL,
	`accepted_at_ms` integer,
	`last_error` text
);
--> statement-breakpoint
CREATE INDEX `meter_events_pending` ON `meter_events` (`accepted_at_ms`,`attempted_at_ms`);--> statement-breakpoint
CREATE INDEX `meter_events_by_account` ON `meter_events` (`account_id`,`accepted_at_ms`);--> statement-breakpoint
CREATE TABLE `stripe_customers` (
	`account_id` text PRIMARY KEY NOT NULL,
	`customer_id` text,
	`cursor_rowid` integer NOT NULL
);
