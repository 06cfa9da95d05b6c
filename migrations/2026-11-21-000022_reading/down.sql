DROP FUNCTION messages_at;
DROP FUNCTION conversation_events_after;
DROP FUNCTION messages_before;
DROP FUNCTION messages_after;
DROP FUNCTION message_partitions_after;
