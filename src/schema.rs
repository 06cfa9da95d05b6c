//! The tables, as the migrations leave them. `make lint` compares.

// Made by the database, and read in SQL only:
// unmapped: accounts.folded_name
diesel::table! {
    accounts (id) {
        id -> Uuid,
        email -> Text,
        display_name -> Text,
        password_hash -> Text,
        role -> Text,
        state -> Text,
        token_version -> Integer,
        email_verified_at -> Nullable<Timestamptz>,
        approved_at -> Nullable<Timestamptz>,
        rejection_reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        two_factor -> Bool,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        account_id -> Uuid,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
        expires_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
        user_agent -> Text,
        address -> Text,
        reauthenticated_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    refresh_tokens (hash) {
        hash -> Binary,
        session_id -> Uuid,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    idempotency_keys (account_id, method, key) {
        account_id -> Uuid,
        method -> Text,
        key -> Text,
        request_hash -> Binary,
        created_at -> Timestamptz,
        response -> Nullable<Binary>,
    }
}

diesel::table! {
    audit_log (id) {
        id -> Uuid,
        at -> Timestamptz,
        account_id -> Nullable<Uuid>,
        session_id -> Nullable<Uuid>,
        method -> Text,
        address -> Nullable<Text>,
        request_id -> Text,
        grpc_code -> SmallInt,
        target_kind -> Nullable<Text>,
        target_id -> Nullable<Uuid>,
        before -> Nullable<Jsonb>,
        after -> Nullable<Jsonb>,
    }
}

diesel::table! {
    conversations (id) {
        id -> Uuid,
        title -> Text,
        created_by -> Nullable<Uuid>,
        created_at -> Timestamptz,
        active_at -> Timestamptz,
        last_seq -> BigInt,
        kind -> Text,
        avatar_url -> Text,
        encrypted -> Bool,
        disappear_seconds -> Nullable<Integer>,
        retention_days -> Nullable<Integer>,
        message_count -> BigInt,
        last_message_seq -> BigInt,
        last_message_at -> Nullable<Timestamptz>,
        changed_at -> Timestamptz,
        search_pending -> Bool,
    }
}

diesel::table! {
    conversation_members (conversation_id, account_id) {
        conversation_id -> Uuid,
        account_id -> Uuid,
        joined_at -> Timestamptz,
        role -> Text,
        left_at -> Nullable<Timestamptz>,
        silenced_until -> Nullable<Timestamptz>,
        muted_until -> Nullable<Timestamptz>,
        archived -> Bool,
        pinned_at -> Nullable<Timestamptz>,
        delivered_seq -> BigInt,
        read_seq -> BigInt,
        read_count -> BigInt,
    }
}

diesel::table! {
    direct_conversations (low, high, encrypted) {
        low -> Uuid,
        high -> Uuid,
        conversation_id -> Uuid,
        encrypted -> Bool,
    }
}

diesel::table! {
    messages (conversation_id, seq, created_at) {
        conversation_id -> Uuid,
        seq -> BigInt,
        created_at -> Timestamptz,
        id -> Uuid,
        sender_id -> Uuid,
        client_message_id -> Text,
        ordinal -> BigInt,
        text -> Text,
        details -> Nullable<Binary>,
        edited_at -> Nullable<Timestamptz>,
        deleted_at -> Nullable<Timestamptz>,
        expires_at -> Nullable<Timestamptz>,
        ciphertext -> Nullable<Binary>,
    }
}

diesel::table! {
    conversation_events (conversation_id, seq, created_at) {
        conversation_id -> Uuid,
        seq -> BigInt,
        created_at -> Timestamptz,
        event -> Binary,
    }
}

diesel::table! {
    message_edits (conversation_id, message_seq, place) {
        conversation_id -> Uuid,
        message_seq -> BigInt,
        place -> Integer,
        text -> Text,
        replaced_at -> Timestamptz,
        message_created_at -> Timestamptz,
    }
}

diesel::table! {
    message_reactions (conversation_id, message_seq, account_id, emoji) {
        conversation_id -> Uuid,
        message_seq -> BigInt,
        account_id -> Uuid,
        emoji -> Text,
        created_at -> Timestamptz,
        message_created_at -> Timestamptz,
    }
}

diesel::table! {
    hidden_messages (account_id, conversation_id, message_seq) {
        account_id -> Uuid,
        conversation_id -> Uuid,
        message_seq -> BigInt,
        message_created_at -> Timestamptz,
    }
}

diesel::table! {
    join_links (conversation_id) {
        conversation_id -> Uuid,
        token_hash -> Binary,
        expires_at -> Timestamptz,
        uses_left -> Nullable<Integer>,
    }
}

diesel::table! {
    message_keys (key) {
        key -> Uuid,
        seq -> BigInt,
        created_at -> Timestamptz,
    }
}

// unmapped: message_documents.document
diesel::table! {
    message_documents (conversation_id, seq, created_at) {
        conversation_id -> Uuid,
        seq -> BigInt,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    search_progress (conversation_id) {
        conversation_id -> Uuid,
        seq -> BigInt,
    }
}

diesel::table! {
    scheduled_messages (id) {
        id -> Uuid,
        account_id -> Uuid,
        conversation_id -> Uuid,
        text -> Text,
        details -> Nullable<Binary>,
        send_at -> Timestamptz,
        created_at -> Timestamptz,
        refused_reason -> Nullable<Integer>,
        refused_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    message_retention (only_row) {
        only_row -> Bool,
        deleted -> BigInt,
    }
}

diesel::table! {
    message_partitions (starts_at) {
        starts_at -> Timestamptz,
        ends_at -> Timestamptz,
    }
}

diesel::table! {
    roles_version (only_row) {
        only_row -> Bool,
        version -> BigInt,
    }
}

diesel::table! {
    roles (id) {
        id -> Uuid,
        name -> Text,
        description -> Text,
        built_in -> Bool,
        created_by -> Nullable<Uuid>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        version -> BigInt,
    }
}

diesel::table! {
    role_grants (role_id, position) {
        role_id -> Uuid,
        position -> Integer,
        permission -> Text,
        deny -> Bool,
        condition -> Nullable<Text>,
        attribute -> Nullable<Text>,
        value -> Nullable<Text>,
    }
}

diesel::table! {
    role_parents (role_id, parent_id) {
        role_id -> Uuid,
        parent_id -> Uuid,
    }
}

diesel::table! {
    account_roles (account_id, role_id) {
        account_id -> Uuid,
        role_id -> Uuid,
        assigned_by -> Nullable<Uuid>,
        assigned_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    two_factor (account_id) {
        account_id -> Uuid,
        secret -> Binary,
        created_at -> Timestamptz,
        enabled_at -> Nullable<Timestamptz>,
        last_step -> BigInt,
    }
}

diesel::table! {
    backup_codes (account_id, hash) {
        account_id -> Uuid,
        hash -> Binary,
        created_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    login_challenges (hash) {
        hash -> Binary,
        account_id -> Uuid,
        credentials -> Binary,
        client -> Binary,
        attempts -> SmallInt,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    jobs (id) {
        id -> Uuid,
        kind -> Text,
        payload -> Jsonb,
        unique_key -> Nullable<Text>,
        state -> Text,
        run_at -> Timestamptz,
        locked_until -> Nullable<Timestamptz>,
        attempts -> Integer,
        last_error -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    registrations (id) {
        id -> Uuid,
        email -> Text,
        display_name -> Text,
        password_hash -> Text,
        token_hash -> Nullable<Binary>,
        token_expires_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    password_resets (account_id) {
        account_id -> Uuid,
        token_hash -> Binary,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    known_devices (account_id, token_hash) {
        account_id -> Uuid,
        token_hash -> Binary,
        last_seen_at -> Timestamptz,
    }
}

diesel::table! {
    profiles (account_id) {
        account_id -> Uuid,
        handle -> Nullable<Text>,
        bio -> Text,
        avatar_url -> Text,
        locale -> Text,
        time_zone -> Text,
        visibility -> Text,
        messages_from -> Text,
        presence_to -> Text,
        version -> BigInt,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    user_blocks (blocker_id, blocked_id) {
        blocker_id -> Uuid,
        blocked_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    passkeys (id) {
        id -> Uuid,
        account_id -> Uuid,
        credential_id -> Binary,
        name -> Text,
        credential -> Jsonb,
        created_at -> Timestamptz,
        last_used_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    passkey_ceremonies (hash) {
        hash -> Binary,
        binding -> Binary,
        state -> Jsonb,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    exports (id) {
        id -> Uuid,
        account_id -> Uuid,
        state -> Text,
        attempt -> Integer,
        files_done -> Integer,
        files -> Integer,
        size -> BigInt,
        requested_at -> Timestamptz,
        ready_at -> Nullable<Timestamptz>,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    export_chunks (export_id, attempt, position) {
        export_id -> Uuid,
        attempt -> Integer,
        position -> Integer,
        data -> Binary,
    }
}

diesel::table! {
    erasures (account_id) {
        account_id -> Uuid,
        pseudonym -> Uuid,
        state_before -> Text,
        by_owner -> Bool,
        token_hash -> Nullable<Binary>,
        requested_at -> Timestamptz,
        erase_at -> Timestamptz,
        begun -> Bool,
    }
}

diesel::table! {
    email_changes (account_id) {
        account_id -> Uuid,
        new_email -> Text,
        session_id -> Uuid,
        token_hash -> Nullable<Binary>,
        token_expires_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    email_undos (id) {
        id -> Uuid,
        account_id -> Uuid,
        email -> Text,
        token_hash -> Nullable<Binary>,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    security_events (id) {
        id -> Uuid,
        kind -> Text,
        subject -> Text,
        minute -> Timestamptz,
        address -> Text,
        at -> Timestamptz,
        last_at -> Timestamptz,
        count -> BigInt,
        user_agent -> Text,
        method -> Text,
        detail -> Text,
        actor_id -> Nullable<Uuid>,
    }
}

diesel::table! {
    security_networks (account_id, network) {
        account_id -> Uuid,
        network -> Text,
        seen_at -> Timestamptz,
    }
}

diesel::table! {
    security_alerts (id) {
        id -> Uuid,
        kind -> Text,
        subject -> Text,
        severity -> SmallInt,
        state -> Text,
        count -> BigInt,
        first_seen_at -> Timestamptz,
        last_seen_at -> Timestamptz,
        acknowledged_by -> Nullable<Uuid>,
        acknowledged_at -> Nullable<Timestamptz>,
        resolved_by -> Nullable<Uuid>,
        resolved_at -> Nullable<Timestamptz>,
        note -> Text,
    }
}

diesel::table! {
    security_sequence (only_row) {
        only_row -> Bool,
        last_seq -> BigInt,
    }
}

diesel::table! {
    security_alert_changes (seq) {
        seq -> BigInt,
        at -> Timestamptz,
        change -> Binary,
    }
}

diesel::table! {
    account_sequences (account_id) {
        account_id -> Uuid,
        last_seq -> BigInt,
    }
}

diesel::table! {
    account_events (account_id, seq) {
        account_id -> Uuid,
        seq -> BigInt,
        created_at -> Timestamptz,
        event -> Binary,
    }
}

diesel::table! {
    nodes (id) {
        id -> Uuid,
        seen_at -> Timestamptz,
    }
}

diesel::table! {
    account_connections (id) {
        id -> Uuid,
        account_id -> Uuid,
        session_id -> Uuid,
        node_id -> Uuid,
        transport -> Text,
        user_agent -> Text,
        address -> Text,
        opened_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    presences (account_id) {
        account_id -> Uuid,
        seen_at -> Timestamptz,
    }
}

diesel::table! {
    account_keys (account_id) {
        account_id -> Uuid,
        public_key -> Binary,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    devices (account_id, device_id) {
        account_id -> Uuid,
        device_id -> Uuid,
        registration_id -> BigInt,
        identity_key -> Binary,
        signing_key -> Binary,
        signature -> Binary,
        name -> Text,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
    }
}

diesel::table! {
    signed_prekeys (account_id, device_id, kind) {
        account_id -> Uuid,
        device_id -> Uuid,
        kind -> Text,
        key_id -> BigInt,
        public_key -> Binary,
        signature -> Binary,
        set_at -> Timestamptz,
    }
}

diesel::table! {
    one_time_prekeys (account_id, device_id, kind, key_id) {
        account_id -> Uuid,
        device_id -> Uuid,
        kind -> Text,
        key_id -> BigInt,
        public_key -> Binary,
        signature -> Nullable<Binary>,
        claimed_at -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(sessions -> accounts (account_id));
diesel::joinable!(password_resets -> accounts (account_id));
diesel::joinable!(refresh_tokens -> sessions (session_id));
diesel::joinable!(conversation_members -> conversations (conversation_id));
diesel::joinable!(known_devices -> accounts (account_id));
diesel::allow_tables_to_appear_in_same_query!(accounts, password_resets, sessions, refresh_tokens);
diesel::allow_tables_to_appear_in_same_query!(accounts, known_devices);
diesel::allow_tables_to_appear_in_same_query!(conversations, conversation_members, messages);
diesel::allow_tables_to_appear_in_same_query!(messages, hidden_messages);
diesel::joinable!(account_roles -> roles (role_id));
diesel::allow_tables_to_appear_in_same_query!(roles, account_roles);
diesel::joinable!(account_connections -> nodes (node_id));
diesel::allow_tables_to_appear_in_same_query!(account_connections, nodes);
diesel::joinable!(devices -> accounts (account_id));
diesel::joinable!(devices -> account_keys (account_id));
diesel::allow_tables_to_appear_in_same_query!(accounts, account_keys, devices);
diesel::allow_tables_to_appear_in_same_query!(devices, signed_prekeys);
