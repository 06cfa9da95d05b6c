DROP FUNCTION messages_at;
DROP FUNCTION messages_before;
DROP FUNCTION messages_after;
DROP FUNCTION message_partitions_after;
