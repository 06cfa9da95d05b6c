//! Profiles: reading, changing, deleting, listing.

use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use prost_types::FieldMask;
use reqwest::Method;
use rialto::proto::rialto::auth::v1::AccountState;
use rialto::proto::rialto::users::v1::get_user_request::Key;
use rialto::proto::rialto::users::v1::{
    Audience, GetMeRequest, GetUserRequest, ListUsersRequest, ProfileVisibility, UpdateMeRequest, User,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{self, Answer, Node, World, refusal};

const ME: &str = "/v1/users/me";

pub fn by_id(id: &str) -> GetUserRequest {
    GetUserRequest { key: Some(Key::UserId(id.into())) }
}

pub fn by_handle(handle: &str) -> GetUserRequest {
    GetUserRequest { key: Some(Key::Handle(handle.into())) }
}

fn update(user: User, paths: &[&str]) -> UpdateMeRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    UpdateMeRequest { user: Some(user), update_mask: Some(FieldMask { paths }) }
}

pub async fn patch(node: &Node, user: &harness::User, body: Value) -> Answer {
    user.call(node, Method::PATCH, ME, body).await
}

/// Every page of a list, as display names.
async fn names(node: &Node, user: &harness::User, query: &str) -> Vec<String> {
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = user.get(node, &format!("/v1/users?{query}&pageToken={token}")).await.ok();
        let page_names = page["users"].as_array().unwrap().iter();
        names.extend(page_names.map(|user| user["displayName"].as_str().unwrap().to_owned()));
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return names;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_read_and_changed_over_grpc() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let mut client = ann.users(&node);

    let me = client.get_me(GetMeRequest {}).await.unwrap().into_inner().user.unwrap();
    assert_eq!((&me.id, me.email.as_str(), me.display_name.as_str()), (&ann.id, "ann@example.com", "ann"));
    assert_eq!((me.state(), me.handle.as_str(), me.bio.as_str()), (AccountState::Active, "", ""));
    let privacy = me.privacy.unwrap();
    assert_eq!(privacy.profile_visibility(), ProfileVisibility::Members);
    assert_eq!((privacy.messages_from(), privacy.presence_to()), (Audience::Everyone, Audience::Everyone));

    let new = User { handle: "Ann.B".into(), bio: "Hi".into(), locale: "de-CH".into(), ..Default::default() };
    let changed = client.update_me(update(new, &["handle", "bio"])).await.unwrap().into_inner().user.unwrap();
    assert_eq!((changed.handle.as_str(), changed.bio.as_str(), changed.locale.as_str()), ("ann.b", "Hi", ""));
    assert_eq!(changed.display_name, "ann");
    assert_ne!(changed.etag, me.etag);
    assert_eq!(client.get_me(GetMeRequest {}).await.unwrap().into_inner().user.unwrap(), changed);

    // What others see of it.
    let mut client = bob.users(&node);
    let seen = client.get_user(by_id(&ann.id)).await.unwrap().into_inner().user.unwrap();
    let public = User { email: String::new(), role: 0, state: 0, privacy: None, etag: String::new(), ..changed };
    assert_eq!(seen, public);
    for handle in ["ann.b", "ANN.b", "@Ann.B"] {
        assert_eq!(client.get_user(by_handle(handle)).await.unwrap().into_inner().user, Some(seen.clone()));
    }
    let listed = client.list_users(ListUsersRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.users[0], seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_read_and_changed_over_rest() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let body = json!({
        "handle": "ann", "bio": "Hi\nthere", "avatarUrl": "https://example.com/a.png", "locale": "de-CH",
        "timeZone": "Europe/Zurich", "privacy": { "presenceTo": "AUDIENCE_NOBODY" },
    });
    let changed = patch(&node, &ann, body.clone()).await.ok();
    for path in [ME, "/api/users/me", "/api/v1/users/me"] {
        assert_eq!(ann.get(&node, path).await.ok(), changed);
    }
    for field in ["handle", "bio", "avatarUrl", "locale", "timeZone"] {
        assert_eq!(changed[field], body[field]);
    }
    let privacy = json!({
        "profileVisibility": "PROFILE_VISIBILITY_MEMBERS", "messagesFrom": "AUDIENCE_EVERYONE",
        "presenceTo": "AUDIENCE_NOBODY",
    });
    assert_eq!((&changed["privacy"], &changed["state"]), (&privacy, &json!("ACCOUNT_STATE_ACTIVE")));
    assert_eq!((&changed["email"], &changed["role"]), (&json!("ann@example.com"), &json!("ROLE_USER")));

    let seen = bob.get(&node, &format!("/v1/users/{}", ann.id)).await.ok();
    assert_eq!((&seen["handle"], &seen["createdAt"]), (&json!("ann"), &changed["createdAt"]));
    for private in ["email", "locale", "timeZone", "etag"] {
        assert_eq!(seen[private], "", "{private}");
    }
    assert_eq!(
        (&seen["privacy"], &seen["role"], &seen["state"]),
        (&Value::Null, &json!("ROLE_UNSPECIFIED"), &json!("ACCOUNT_STATE_UNSPECIFIED"))
    );
    assert_eq!(bob.get(&node, "/v1/users/by-handle/ANN").await.ok(), seen);
    assert_eq!(bob.get(&node, "/v1/users/by-handle/%40ann").await.ok(), seen);
    assert_eq!(bob.get(&node, "/v1/users?query=ann").await.ok(), json!({ "users": [seen], "nextPageToken": "" }));
    assert_eq!(ann.get(&node, &format!("/v1/users/{}", ann.id)).await.ok(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn patch_changes_what_it_names_and_put_replaces_everything() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    patch(&node, &ann, json!({ "handle": "ann", "bio": "Hi", "privacy": { "messagesFrom": "AUDIENCE_NOBODY" } }))
        .await
        .ok();

    let patched = patch(&node, &ann, json!({ "bio": "", "privacy": { "presenceTo": "AUDIENCE_CONTACTS" } })).await.ok();
    assert_eq!((&patched["handle"], &patched["bio"]), (&json!("ann"), &json!("")));
    assert_eq!(patched["privacy"]["messagesFrom"], "AUDIENCE_NOBODY");
    assert_eq!(patch(&node, &ann, json!({})).await.ok(), patched, "nothing named, nothing changed");
    // A mask of one's own goes before what the body names.
    let path = format!("{ME}?updateMask=displayName");
    let masked = ann.call(&node, Method::PATCH, &path, json!({ "displayName": "Ännchen", "bio": "no" })).await.ok();
    assert_eq!((&masked["displayName"], &masked["bio"]), (&json!("Ännchen"), &json!("")));

    let put = ann.call(&node, Method::PUT, ME, json!({ "displayName": "Ann", "bio": "New" })).await.ok();
    assert_eq!((&put["displayName"], &put["bio"], &put["handle"]), (&json!("Ann"), &json!("New"), &json!("")));
    assert_eq!(put["privacy"]["messagesFrom"], "AUDIENCE_EVERYONE");
    let answer = ann.call(&node, Method::PUT, ME, json!({ "bio": "x" })).await;
    answer.refused(422, "VALIDATION_ERROR", 2001);
    assert_eq!(answer.fields(), ["user.display_name"]);

    // A client may send back what it read. What it can't change stays.
    let mut whole = ann.get(&node, ME).await.ok();
    whole["bio"] = json!("Round trip");
    whole["email"] = json!("root@example.com");
    whole["role"] = json!("ROLE_ADMIN");
    for method in [Method::PATCH, Method::PUT] {
        let changed = ann.call(&node, method, ME, whole.clone()).await.ok();
        assert_eq!((&changed["bio"], &changed["email"]), (&json!("Round trip"), &json!("ann@example.com")));
        assert_eq!(changed["role"], "ROLE_USER");
        whole["etag"] = changed["etag"].clone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_etag_changes_nothing_also_when_two_write_at_once() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let ann = node.user("ann").await;
    let etag = ann.get(&node, ME).await.ok()["etag"].clone();
    for round in 0..5 {
        let etag = ann.get(&node, ME).await.ok()["etag"].clone();
        let write = |index: usize| {
            let (ann, etag) = (&ann, etag.clone());
            let node = if index.is_multiple_of(2) { &node } else { &other };
            async move { patch(node, ann, json!({ "bio": format!("{round} {index}"), "etag": etag })).await }
        };
        let (won, lost): (Vec<_>, Vec<_>) =
            join_all((0..4).map(write)).await.into_iter().partition(|answer| answer.status == 200);
        assert_eq!(won.len(), 1);
        for answer in lost {
            answer.refused(409, "RESOURCE_CONFLICT", 3003);
            assert_eq!(answer.fields(), ["user.etag"]);
        }
        assert_eq!(ann.get(&node, ME).await.ok(), won[0].body);
    }
    let stale = update(User { etag: etag.as_str().unwrap().into(), bio: "x".into(), ..Default::default() }, &["bio"]);
    let refused = refusal(ann.users(&node).update_me(stale).await);
    assert_eq!(refused, (Code::Aborted, "RESOURCE_CONFLICT".into()));
    // A change of the name alone is a change, and without an etag the last one wins.
    let before = ann.get(&node, ME).await.ok()["etag"].clone();
    let after = patch(&node, &ann, json!({ "displayName": "Anna" })).await.ok()["etag"].clone();
    assert_ne!(before, after);
    assert_ne!(patch(&node, &ann, json!({ "displayName": "Anna" })).await.ok()["etag"], after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_has_one_owner_also_when_two_want_it_at_once() {
    let world = World::new().await;
    let node = world.node().await;
    let people = join_all((0..4).map(|index| {
        let node = &node;
        async move { node.user(&format!("user{index}")).await }
    }))
    .await;
    let spellings = ["Wanted", "wanted", "WANTED", "wanteD"];
    let claims = people.iter().zip(spellings).map(|(user, handle)| patch(&node, user, json!({ "handle": handle })));
    let (won, lost): (Vec<_>, Vec<_>) = join_all(claims).await.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), won[0].body["handle"].as_str()), (1, Some("wanted")));
    for answer in lost {
        answer.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);
        assert_eq!(answer.fields(), ["user.handle"]);
    }
    let owner = people.iter().find(|user| won[0].body["id"] == user.id.as_str()).unwrap();
    // It can be kept, given up, and taken by somebody else.
    patch(&node, owner, json!({ "handle": "wanted" })).await.ok();
    patch(&node, owner, json!({ "handle": "" })).await.ok();
    let next = people.iter().find(|user| user.id != owner.id).unwrap();
    patch(&node, next, json!({ "handle": "wanted" })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_name_the_field_and_change_nothing() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    let before = ann.get(&node, ME).await.ok();
    let long_url = format!("https://example.com/{}", "x".repeat(2048));
    for (body, field) in [
        (json!({ "handle": "an" }), "user.handle"),
        (json!({ "handle": "x".repeat(31) }), "user.handle"),
        (json!({ "handle": "ann-b" }), "user.handle"),
        (json!({ "handle": "an\u{212a}" }), "user.handle"),
        (json!({ "handle": "Ad.Min" }), "user.handle"),
        (json!({ "displayName": " " }), "user.display_name"),
        (json!({ "displayName": "a\nb" }), "user.display_name"),
        (json!({ "displayName": "x".repeat(81) }), "user.display_name"),
        (json!({ "bio": "x".repeat(501) }), "user.bio"),
        (json!({ "bio": "\u{1b}[31m" }), "user.bio"),
        (json!({ "bio": "\u{0}" }), "user.bio"),
        (json!({ "avatarUrl": "http://example.com/a.png" }), "user.avatar_url"),
        (json!({ "avatarUrl": "javascript:alert(1)" }), "user.avatar_url"),
        (json!({ "avatarUrl": long_url }), "user.avatar_url"),
        (json!({ "locale": "de_CH" }), "user.locale"),
        (json!({ "timeZone": "Europe/Atlantis" }), "user.time_zone"),
        (json!({ "privacy": { "presenceTo": 17 } }), "user.privacy.presence_to"),
    ] {
        let answer = patch(&node, &ann, body.clone()).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field], "{body}");
    }
    for body in
        [json!({ "nonsense": 1 }), json!({ "bio": 1 }), json!([]), json!({ "privacy": { "presenceTo": "ALL" } })]
    {
        patch(&node, &ann, body).await.refused(400, "INVALID_FORMAT", 2004);
    }
    for path in ["nonsense", "bio.x", "privacy.nonsense", "", "bio,nonsense"] {
        let request = update(User::default(), &path.split(',').collect::<Vec<_>>());
        let refused = ann.users(&node).update_me(request).await.unwrap_err();
        use tonic_types::StatusExt;
        let field = refused.get_details_bad_request().unwrap().field_violations[0].field.clone();
        assert_eq!((refused.code(), field.as_str()), (Code::InvalidArgument, "update_mask"), "{path:?}");
    }
    let missing = UpdateMeRequest { user: None, update_mask: None };
    let refused = refusal(ann.users(&node).update_me(missing).await);
    assert_eq!(refused, (Code::InvalidArgument, "MISSING_REQUIRED_FIELD".into()));
    let answer = node.rest(Method::PUT, ME, Some(&ann.token), None).await;
    answer.refused(422, "MISSING_REQUIRED_FIELD", 2003);
    assert_eq!(ann.get(&node, ME).await.ok(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_script_come_back_and_are_found() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    for name in ["Zoë Ångström", "Дмитрий", "山田 太郎", "👩‍👩‍👧 family", "e\u{301}mile", "100%_\\sure", "'; DROP--"]
    {
        let changed = patch(&node, &ann, json!({ "displayName": name })).await.ok();
        assert_eq!(changed["displayName"], name);
        let chars: Vec<_> = name.chars().collect();
        let encoded = |text: String| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        for query in [name.to_lowercase(), chars[..4].iter().collect(), chars[..2].iter().collect()] {
            let found = names(&node, &bob, &format!("query={}", encoded(query.clone()))).await;
            assert_eq!(found, [name], "{query:?}");
        }
    }
    // What means something to LIKE is text.
    for query in ["%25%25%25", "___", "%25", "_"] {
        assert!(names(&node, &bob, &format!("query={query}")).await.is_empty(), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_ordered_searched_and_paged() {
    let world = World::new().await;
    let node = world.node().await;
    let mut people = Vec::new();
    for name in ["Ann Onym", "bob", "Carl Annen", "anna", "Dora", "dora"] {
        let user = node.user(&name.replace(' ', ".").replace("dora", "dora2")).await;
        patch(&node, &user, json!({ "displayName": name, "handle": user.email.split('@').next() })).await.ok();
        people.push(user);
    }
    let ann = people[0].clone();
    let by_name = ["Ann Onym", "anna", "bob", "Carl Annen", "Dora", "dora"];
    let by_time = ["Ann Onym", "bob", "Carl Annen", "anna", "Dora", "dora"];
    let reversed = |names: [&str; 6]| names.into_iter().rev().map(str::to_owned).collect::<Vec<_>>();
    for size in [1, 2, 5, 6, 7, 1_000_000] {
        assert_eq!(names(&node, &ann, &format!("pageSize={size}")).await, by_name);
        assert_eq!(
            names(&node, &ann, &format!("pageSize={size}&orderBy=display_name%20desc")).await,
            reversed(by_name)
        );
        assert_eq!(names(&node, &ann, &format!("pageSize={size}&orderBy=created_at")).await, by_time);
        assert_eq!(names(&node, &ann, &format!("pageSize={size}&orderBy=created_at%20desc")).await, reversed(by_time));
        assert_eq!(names(&node, &ann, &format!("pageSize={size}&query=ann")).await, ["Ann Onym", "anna", "Carl Annen"]);
    }
    assert_eq!(names(&node, &ann, "query=AN").await, ["Ann Onym", "anna"], "at the beginning");
    assert_eq!(names(&node, &ann, "query=onY").await, ["Ann Onym"], "anywhere");
    assert_eq!(names(&node, &ann, "query=ora2").await, ["dora"], "inside a handle");
    assert_eq!(names(&node, &ann, "query=@carl").await, ["Carl Annen"]);
    assert!(names(&node, &ann, "query=@annen").await.is_empty());
    assert!(names(&node, &ann, "query=example.com").await.is_empty(), "nobody is found by e-mail address");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_whole_while_accounts_come() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("m.ann").await;
    let insert = async |range: &str, prefix: &str| {
        let sql = format!(
            "INSERT INTO accounts (id, email, display_name, password_hash, role, state, created_at, updated_at) \
             SELECT gen_random_uuid(), '{prefix}' || n || '@x.example', '{prefix} ' || (n % 3), '', 'user', 'active', \
             now() - n * interval '1 second', now() FROM generate_series({range}) n"
        );
        world.database().await.batch_execute(&sql).await.unwrap();
    };
    insert("1, 20", "old").await;
    for order in ["display_name", "display_name%20desc", "created_at", "created_at%20desc"] {
        let (mut seen, mut token, mut round) = (Vec::new(), String::new(), 0);
        loop {
            let page = ann.get(&node, &format!("/v1/users?pageSize=3&orderBy={order}&pageToken={token}")).await.ok();
            seen.extend(page["users"].as_array().unwrap().iter().map(|user| {
                (user["id"].as_str().unwrap().to_owned(), user["displayName"].as_str().unwrap().to_owned())
            }));
            token = page["nextPageToken"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
            round += 1;
            // Before and after where the list has come to, but not for ever.
            if round <= 5 {
                insert("1, 2", &format!("a {order} {round}")).await;
                insert("1, 2", &format!("z {order} {round}")).await;
            }
        }
        let old = seen.iter().filter(|(_, name)| name.starts_with("old ")).count();
        let mut ids: Vec<_> = seen.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((old, ids.len()), (20, seen.len()), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_and_search_uses_its_index() {
    let mut world = World::new().await;
    // One connection: what it says of itself to Postgres comes in the order of its queries.
    world.config.database.pool_size = 1;
    let node = world.node().await;
    let admin = world.administrator(&node, "boss").await;
    let fill = "\
        INSERT INTO accounts (id, email, display_name, password_hash, role, state, created_at, updated_at) \
            SELECT gen_random_uuid(), md5(n::text) || '@x.example', initcap(md5(n::text)), '', 'user', \
            CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'active' END, now() - n * interval '1 second', now() \
            FROM generate_series(1, 30000) n; \
        INSERT INTO profiles SELECT id, left(lower(display_name), 20), '', '', '', '', 'members', 'everyone', 'everyone', \
            1, now() FROM accounts WHERE email LIKE '%@x.example'";
    let mut database = world.database().await;
    database.batch_execute(fill).await.unwrap();
    // Takes what was inserted into the search indexes, which until then are no good to the planner.
    database.batch_execute("VACUUM ANALYZE accounts, profiles").await.unwrap();
    let sequential =
        async || world.count("pg_stat_user_tables WHERE relname IN ('accounts', 'profiles') AND seq_scan > 0").await;
    for (query, index) in [
        ("", "accounts_name"),
        ("orderBy=display_name%20desc", "accounts_name"),
        ("orderBy=created_at%20desc", "accounts_created"),
        ("state=ACCOUNT_STATE_PENDING&orderBy=created_at", "accounts_state"),
        ("role=ROLE_ADMIN&orderBy=created_at", "accounts_role"),
        ("emailPrefix=abcd", "accounts_email_prefix"),
        ("query=c4ca4", "accounts_name_search"),
        ("query=c4ca4", "profiles_handle_search"),
        ("query=@c4ca4", "profiles_handle_search"),
    ] {
        database.batch_execute("SELECT pg_stat_reset()").await.unwrap();
        let first = admin.get(&node, &format!("/v1/users?pageSize=2&{query}")).await.ok();
        let token = first["nextPageToken"].as_str().unwrap();
        admin.get(&node, &format!("/v1/users?pageSize=2&{query}&pageToken={token}")).await.ok();
        let used = format!("pg_stat_user_indexes WHERE indexrelname = '{index}' AND idx_scan > 0");
        harness::eventually(async || {
            // A connection tells what it did when it is used again, a second later at the earliest.
            admin.get(&node, "/v1/users/by-handle/nobody").await;
            world.count(&used).await == 1
        })
        .await;
        assert_eq!(sequential().await, 0, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_lists_are_refused_with_the_field() {
    let world = World::new().await;
    let node = world.node().await;
    let ann = node.user("ann").await;
    node.user("bob").await;
    let first = ann.get(&node, "/v1/users?pageSize=1").await.ok();
    let foreign = format!("orderBy=created_at&pageToken={}", first["nextPageToken"].as_str().unwrap());
    let long = format!("query={}", "x".repeat(81));
    let huge = format!("pageToken={}", "A".repeat(1025));
    for (query, field) in [
        ("pageSize=-1", "page_size"),
        ("pageToken=x", "page_token"),
        (&foreign, "page_token"),
        (&huge, "page_token"),
        (&long, "query"),
        ("query=%00", "query"),
        ("orderBy=email", "order_by"),
        ("orderBy=display_name;drop", "order_by"),
        ("state=99", "state"),
        ("role=99", "role"),
    ] {
        let answer = ann.get(&node, &format!("/v1/users?{query}")).await;
        answer.refused(422, "VALIDATION_ERROR", 2001);
        assert_eq!(answer.fields(), [field], "{query}");
    }
    for query in ["pageSize=x", "pageSize=99999999999", "nonsense=1", "state=DELETED", "query=%FF"] {
        ann.get(&node, &format!("/v1/users?{query}")).await.refused(400, "INVALID_FORMAT", 2004);
    }
    for query in ["query=%20%20", "query=", "pageSize=2147483647", "query=@", "query=---"] {
        ann.get(&node, &format!("/v1/users?{query}")).await.ok();
    }
    let answer = ann.get(&node, "/v1/users/x").await;
    assert_eq!((answer.status, answer.fields()), (422, vec!["user_id"]));
    ann.get(&node, "/v1/users/by-handle/..").await.refused(404, "ROUTE_NOT_FOUND", 3001);
    ann.get(&node, "/v1/users/by-handle/nobody.at.all").await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_account_is_gone_everywhere_at_once() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let admin = world.administrator(&node, "boss").await;
    let laptop = other.log_in(&ann.email, &ann.id).await;
    let body = json!({ "handle": "ann", "privacy": { "profileVisibility": "PROFILE_VISIBILITY_EVERYONE" } });
    patch(&node, &ann, body).await.ok();
    laptop.get(&other, ME).await.ok();
    node.rest(Method::GET, "/v1/profiles/ann", None, None).await.ok();

    ann.delete(&node, ME).await.ok();
    for (session, node) in [(&ann, &node), (&laptop, &other), (&laptop, &node)] {
        harness::eventually(async || session.get(node, ME).await.status == 401).await;
        session.get(node, ME).await.refused(401, "SESSION_REVOKED", 1004);
    }
    let login = json!({ "email": ann.email, "password": harness::PASSWORD });
    assert_eq!(node.rest(Method::POST, "/v1/auth/login", None, Some(login)).await.status, 403);

    // To everybody else, administrators too, it is an id that never was.
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let message = |answer: Answer| answer.body["error"]["message"].clone();
    for viewer in [&bob, &admin] {
        let absent = message(viewer.get(&node, &format!("/v1/users/{unknown}")).await);
        for path in [format!("/v1/users/{}", ann.id), "/v1/users/by-handle/ann".into()] {
            let answer = viewer.get(&node, &path).await;
            assert_eq!(answer.body["error"]["message"], absent);
            answer.refused(404, "RESOURCE_NOT_FOUND", 3001);
        }
        assert_eq!(names(&node, viewer, "").await, ["bob", "boss"]);
        assert!(names(&node, viewer, "query=ann").await.is_empty());
        let start = viewer.post(&node, "/v1/conversations", json!({ "member_ids": [ann.id] })).await;
        assert_eq!(start.fields(), ["member_ids[0]"]);
    }
    node.rest(Method::GET, "/v1/profiles/ann", None, None).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    let path = format!("/v1/users/{}", ann.id);
    admin.call(&node, Method::PATCH, &path, json!({ "bio": "x" })).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
    admin.delete(&node, &path).await.refused(404, "RESOURCE_NOT_FOUND", 3001);

    // Neither the address nor the handle is free.
    patch(&node, &bob, json!({ "handle": "ann" })).await.refused(409, "RESOURCE_ALREADY_EXISTS", 3002);
    let register = json!({ "email": ann.email, "password": harness::PASSWORD, "display_name": "x" });
    assert_ne!(node.rest(Method::POST, "/v1/auth/register", None, Some(register)).await.status, 200);
}
