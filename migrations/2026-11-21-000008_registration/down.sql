DROP INDEX accounts_pending;
DROP TABLE known_devices;
DROP TABLE password_resets;
DROP TABLE registrations;
