ALTER TABLE `batches` ADD `chain_id` integer;--> statement-breakpoint
ALTER TABLE `batches` ADD `contract` text;