DROP TABLE security_alert_changes, security_sequence, security_alerts, security_networks, security_events;
