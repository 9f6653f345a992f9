CREATE TABLE `api_keys` (
	`id` text PRIMARY KEY NOT NULL,
	`account_id` text NOT NULL,
	`name` text NOT NULL,
	`start` text NOT NULL,
	`created_at_ms` integer NOT NULL,
	`revoked_at_ms` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `api_keys_by_account` ON `api_keys` (`account_id`,`id`);--> statement-breakpoint
CREATE TABLE `batches` (
	`id` integer PRIMARY KEY NOT NULL,
	`state` text NOT NULL,
	`leaf_count` integer NOT NULL,
	`root` text NOT NULL,
	`payload_hash` text NOT NULL,
	`payload_bytes` integer NOT NULL,
	`planned_at_ms` integer NOT NULL,
	`da_kind` text,
	`da_commitment` text,
	`chain_id` integer,
	`contract` text,
	`tx_hash` text,
	`block_number` integer,
	`last_error` text,
	`updated_at_ms` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `batches_by_state` ON `batches` (`state`);--> statement-breakpoint
CREATE TABLE `usage` (
	`request_id` text PRIMARY KEY NOT NULL,
	`account_id` text NOT NULL,
	`key_id` text NOT NULL,
	`endpoint` text NOT NULL,
	`model` text NOT NULL,
	`backend_id` text NOT NULL,
	`outcome` text NOT NULL,
	`admitted_at_ms` integer NOT NULL,
	`completed_at_ms` integer NOT NULL,
	`prompt_tokens` integer NOT NULL,
	`cached_tokens` integer NOT NULL,
	`completion_tokens` integer NOT NULL,
	`fee_micro_usd` integer NOT NULL,
	`price_version` integer NOT NULL,
	`split_version` integer NOT NULL,
	`model_digest` text NOT NULL,
	`adapter_digest` text NOT NULL,
	`attribution_digest` text NOT NULL,
	`credits` text NOT NULL,
	`account_commitment` text NOT NULL,
	`content_salt` text NOT NULL,
	`prompt_hash` text NOT NULL,
	`output_hash` text NOT NULL,
	`sketch_hash` text NOT NULL,
	`batch_id` integer,
	`leaf_index` integer,
	`leaf_hash` text
);
--> statement-breakpoint
CREATE INDEX `usage_by_account` ON `usage` (`account_id`,`completed_at_ms`,`request_id`);--> statement-breakpoint
CREATE INDEX `usage_by_batch` ON `usage` (`batch_id`,`leaf_index`);