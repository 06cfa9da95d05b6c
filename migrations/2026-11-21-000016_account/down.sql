DROP TABLE account_connections, nodes, account_events, account_sequences;
