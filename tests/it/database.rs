//! What clients are told when Postgres fails under a query.

use diesel_async::SimpleAsyncConnection;
use reqwest::Method;
use rialto::kernel::error::{Error, Reason};
use serde_json::json;

use crate::harness::{World, eventually};

const BLOCKED: &str = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_connection_to_postgres_is_terminated_is_worth_another_try() {
    let world = World::new().await;
    let node = world.node().await;
    let (ann, bob, eve) = (node.user("ann").await, node.user("bob").await, node.user("eve").await);
    let path = format!("/v1/conversations/{}", ann.conversation(&node, &[&bob, &eve]).await);
    let mut conn = world.database().await;
    conn.batch_execute("BEGIN; SELECT FROM conversations FOR UPDATE").await.unwrap();
    let terminate = async {
        eventually(async || world.count(BLOCKED).await == 1).await;
        conn.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM {BLOCKED}; COMMIT")).await.unwrap();
    };
    let rename = || ann.call(&node, Method::PATCH, &path, json!({ "title": "Lunch" }));
    let (renamed, ()) = tokio::join!(rename(), terminate);
    renamed.refused(503, "CONNECTION_ERROR", 4004);
    rename().await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_takes_back_is_told_apart() {
    let world = World::new().await;
    let reason = async |statements: &str| {
        let failed = world.database().await.batch_execute(statements).await;
        Error::from(failed.unwrap_err()).reason
    };
    assert_eq!(reason("SELECT pg_terminate_backend(pg_backend_pid())").await, Reason::ConnectionError);
    assert_eq!(reason("SET statement_timeout = 1; SELECT pg_sleep(60)").await, Reason::Timeout);
    assert_eq!(reason("SELECT 1 / 0").await, Reason::QueryFailed);

    let (mut one, mut two) = (world.database().await, world.database().await);
    one.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.unwrap();
    two.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(2)").await.unwrap();
    let locked = tokio::join!(
        one.batch_execute("SELECT pg_advisory_xact_lock(2); COMMIT"),
        two.batch_execute("SELECT pg_advisory_xact_lock(1); COMMIT"),
    );
    let victims: Vec<_> = [locked.0, locked.1].into_iter().filter_map(Result::err).collect();
    let reasons: Vec<_> = victims.into_iter().map(|victim| Error::from(victim).reason).collect();
    assert_eq!(reasons, [Reason::TransactionFailed]);
}
