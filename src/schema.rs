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
    }
}

diesel::table! {
    conversations (id) {
        id -> Uuid,
        title -> Text,
        created_by -> Uuid,
        created_at -> Timestamptz,
        active_at -> Timestamptz,
        last_seq -> BigInt,
    }
}

diesel::table! {
    conversation_members (conversation_id, account_id) {
        conversation_id -> Uuid,
        account_id -> Uuid,
        joined_at -> Timestamptz,
    }
}

diesel::table! {
    messages (conversation_id, seq) {
        conversation_id -> Uuid,
        seq -> BigInt,
        id -> Uuid,
        sender_id -> Uuid,
        client_message_id -> Text,
        text -> Text,
        created_at -> Timestamptz,
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

diesel::joinable!(sessions -> accounts (account_id));
diesel::joinable!(refresh_tokens -> sessions (session_id));
diesel::joinable!(conversation_members -> conversations (conversation_id));
diesel::joinable!(messages -> conversations (conversation_id));
diesel::allow_tables_to_appear_in_same_query!(accounts, sessions, refresh_tokens);
diesel::allow_tables_to_appear_in_same_query!(conversations, conversation_members, messages);
