//! What a call costs Postgres and Redis, counted by themselves.

use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use futures_util::{StreamExt, stream};
use rialto::dev::services::PrivateRedis;
use rialto::proto::rialto::policy::v1::Condition;
use rialto::proto::rialto::roles::v1::{AssignRoleRequest, CreateRoleRequest, Grant};

use crate::harness::{Node, User, World, eventually};

/// Enough to stand out from what nodes do by themselves: a heartbeat and a look at the version of roles twice a second.
const CALLS: i64 = 1000;

/// A world with a Redis of its own, whose counters nobody else moves.
struct Counted {
    world: World,
    redis: PrivateRedis,
    _folder: tempfile::TempDir,
}

impl Counted {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis = PrivateRedis::start(folder.path()).unwrap();
        let world = World::on(&std::env::var("RIALTO_DATABASE__URL").unwrap(), redis.url()).await;
        Self { world, redis, _folder: folder }
    }

    /// Transactions in the world's database, once the node's connections are closed: they report when they are.
    async fn transactions(&self, node: Node) -> i64 {
        node.stop().await;
        let others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let close = format!("SELECT pg_terminate_backend(pid) FROM {others}");
        self.world.database().await.batch_execute(&close).await.unwrap();
        eventually(async || self.world.count(others).await == 0).await;
        #[derive(diesel::QueryableByName)]
        struct Sum {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            sum: i64,
        }
        let sum = "SELECT xact_commit + xact_rollback AS sum FROM pg_stat_database WHERE datname = current_database()";
        diesel::sql_query(sum).get_result::<Sum>(&mut self.world.database().await).await.unwrap().sum
    }

    /// Commands that Redis has run.
    async fn commands(&self) -> i64 {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut conn).await.unwrap();
        let calls =
            info.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next()?.parse::<i64>().ok());
        calls.sum()
    }
}

/// So many times the same, sixteen at once.
async fn many(call: impl AsyncFn()) {
    stream::iter(0..CALLS).map(|_| call()).buffer_unordered(16).collect::<Vec<()>>().await;
}

/// Somebody who reads roles because of a role of their own, under a condition for something else.
async fn reader(world: &World, node: &Node) -> User {
    let (admin, bob) = (world.administrator(node, "admin").await, node.user("bob").await);
    let allow = |permission: &str| Grant { permission: permission.into(), ..Grant::default() };
    let grants = vec![
        allow("roles:read"),
        Grant { condition: Condition::Own.into(), ..allow("conversations:read") },
        Grant { deny: true, ..allow("roles:delete") },
    ];
    let role = CreateRoleRequest { name: "reader".into(), grants, ..Default::default() };
    let role = admin.roles(node).create_role(role).await.unwrap().into_inner().role.unwrap();
    let assign = AssignRoleRequest { account_id: bob.id.clone(), role_id: role.id, expires_at: None };
    admin.roles(node).assign_role(assign).await.unwrap();
    bob
}

/// Commands and transactions; nothing if the node lost Redis meanwhile, as one does that gets no time on a busy machine: it
/// asks Postgres then, as it should.
async fn cost_of_decisions() -> Option<(i64, i64)> {
    let counted = Counted::new().await;
    let node = counted.world.node().await;
    let bob = reader(&counted.world, &node).await;
    bob.get(&node, "/v1/roles").await.ok();
    let link = node.server.app.bus.link();
    let before = counted.commands().await;
    many(async || {
        // Both are decided by the gate: one is let in, and finds the request invalid before it asks anything; one is not.
        bob.get(&node, "/v1/roles/x").await.refused(422, "VALIDATION_ERROR", 2001);
        bob.delete(&node, "/v1/roles/x").await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    })
    .await;
    let commands = counted.commands().await - before;
    let stayed = link.borrow().up && !link.has_changed().unwrap();
    let transactions = counted.transactions(node).await;
    stayed.then_some((commands, transactions))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_costs_no_round_trip_while_nothing_changed() {
    loop {
        let Some((commands, transactions)) = cost_of_decisions().await else { continue };
        assert!(commands < CALLS / 2, "{commands} commands of Redis for {CALLS} decisions of each kind");
        assert!(transactions < CALLS / 2, "{transactions} transactions for {CALLS} decisions of each kind");
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_ours_costs_no_round_trip() {
    let counted = Counted::new().await;
    let node = counted.world.node().await;
    let ann = node.user("ann").await;
    let (start, end) = ann.token.split_at(ann.token.len() - 9);
    let other = if end.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{start}{other}{}", &end[1..]);
    let long = "A".repeat(8000);
    let before = counted.commands().await;
    many(async || {
        for token in [&forged, &long] {
            let answer = node.rest(reqwest::Method::GET, "/v1/auth/me", Some(token), None).await;
            assert_eq!(answer.status, 401);
        }
    })
    .await;
    let commands = counted.commands().await - before;
    assert!(commands < CALLS / 2, "{commands} commands of Redis for {CALLS} tokens of each kind");
    let transactions = counted.transactions(node).await;
    assert!(transactions < CALLS / 2, "{transactions} transactions for {CALLS} tokens of each kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_would_have_been_counted() {
    let counted = Counted::new().await;
    let node = counted.world.node().await;
    let bob = reader(&counted.world, &node).await;
    many(async || drop(bob.get(&node, "/v1/roles").await.ok())).await;
    assert!(counted.transactions(node).await >= CALLS);
}
