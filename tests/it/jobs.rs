//! Work that is done later: once or more, whatever happens to workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use rialto::kernel::error::{Error, Reason};
use rialto::kernel::jobs::{self, Failure, Handlers, Job, NewJob};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::command::{output, production, rialto};
use crate::harness::{Node, World, eventually, soon};

/// A job of the tests in a transaction of its own.
async fn enqueue(node: &Node, payload: i32, unique: Option<&str>) {
    let app = &node.server.app;
    let mut job = NewJob::new(app, "test", &payload).unwrap();
    if let Some(key) = unique {
        job = job.unique(key);
    }
    job.enqueue(&mut app.db.get().await.unwrap()).await.unwrap();
    jobs::wake(app).await;
}

/// A worker that does the jobs of the tests, and nothing else.
fn worker<F>(node: &Node, handler: impl Fn(i32) -> F + Send + Sync + 'static) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let handlers = Handlers::default().handle("test", move |_, job: Job<i32>| handler(job.payload));
    tokio::spawn(jobs::run(node.server.app.clone(), handlers))
}

fn failure() -> Error {
    Error::new(Reason::UpstreamError, "it is away")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_there_exactly_when_its_transaction_was_committed() {
    let world = World::new().await;
    let node = world.node().await;
    let app = &node.server.app;
    let mut conn = app.db.get().await.unwrap();
    let rolled_back = conn.transaction(async |conn| {
        NewJob::new(app, "test", &1)?.enqueue(conn).await?;
        Err::<(), Error>(failure())
    });
    rolled_back.await.unwrap_err();
    assert_eq!(world.count("jobs").await, 0);
    drop(conn);

    let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
    worker(&node, move |payload| std::future::ready(done.send(payload).map_err(|_| failure().into())));
    enqueue(&node, 2, None).await;
    assert_eq!(soon(results.recv()).await, Some(2));
    eventually(async || world.count("jobs").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_workers_each_job_has_one_and_no_worker_has_too_many() {
    let mut world = World::new().await;
    world.config.jobs.concurrency = 3;
    let (one, two) = (world.node().await, world.node().await);
    for payload in 0..60 {
        enqueue(&one, payload, None).await;
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    for node in [&one, &two] {
        let (runs, most, now) = (Arc::clone(&runs), Arc::clone(&most), Arc::new(AtomicUsize::new(0)));
        worker(node, move |_| {
            let (runs, most, now) = (Arc::clone(&runs), Arc::clone(&most), Arc::clone(&now));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
    }
    eventually(async || world.count("jobs").await == 0).await;
    assert_eq!(runs.load(Ordering::SeqCst), 60);
    assert!(most.load(Ordering::SeqCst) <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_worker_that_was_killed_runs_again() {
    let world = World::new().await;
    let node = world.node().await;
    let begun = Arc::new(Notify::new());
    let notify = Arc::clone(&begun);
    let killed = worker(&node, move |_| {
        notify.notify_one();
        std::future::pending()
    });
    enqueue(&node, 1, None).await;
    soon(begun.notified()).await;
    killed.abort();
    assert!(soon(killed).await.unwrap_err().is_cancelled());

    let again = Arc::new(Notify::new());
    let notify = Arc::clone(&again);
    worker(&node, move |_| {
        notify.notify_one();
        std::future::ready(Ok(()))
    });
    // Until its lease is over, it could still be at work.
    assert_eq!(world.count("jobs WHERE attempts = 1 AND locked_until IS NOT NULL").await, 1);
    world.clock.advance(Duration::from_secs(61));
    soon(again.notified()).await;
    eventually(async || world.count("jobs").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_what_takes_long_until_somebody_else_has_it() {
    /// Tells when the handler is dropped.
    struct Dropped(Arc<Notify>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let world = World::new().await;
    let node = world.node().await;
    let dropped = Arc::new(Notify::new());
    let notify = Arc::clone(&dropped);
    worker(&node, move |_| {
        let guard = Dropped(Arc::clone(&notify));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(())
        }
    });
    enqueue(&node, 1, None).await;
    let renewed = "jobs WHERE attempts = 1 AND locked_until > created_at + interval '65 seconds'";
    eventually(async || world.count(renewed).await == 1).await;
    let taken = "UPDATE jobs SET attempts = attempts + 1";
    world.database().await.batch_execute(taken).await.unwrap();
    soon(dropped.notified()).await;
    assert_eq!(world.count("jobs WHERE attempts = 2 AND state = 'ready'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_later_and_is_dead_after_too_many_attempts_and_everybody_sees_it() {
    let mut world = World::new().await;
    world.config.jobs.max_attempts = 3;
    let node = world.node().await;
    worker(&node, move |payload| async move {
        match payload {
            1 => Err(failure().into()),
            2 => panic!("a fault of the handler"),
            _ => Err(Failure::Never(failure())),
        }
    });
    for payload in 1..=3 {
        enqueue(&node, payload, None).await;
    }
    eventually(async || world.count("jobs WHERE state = 'dead' AND attempts = 1").await == 1).await;
    eventually(async || world.count("jobs WHERE state = 'ready' AND attempts = 1 AND last_error <> ''").await == 2)
        .await;
    assert_eq!(world.count("jobs WHERE state = 'ready' AND run_at > created_at + interval '2 seconds'").await, 2);
    eventually(async || {
        world.clock.advance(Duration::from_secs(30));
        world.count("jobs WHERE state = 'dead'").await == 3
    })
    .await;
    assert_eq!(world.count("jobs WHERE attempts = 3").await, 2);
    assert_eq!(world.count("jobs WHERE last_error LIKE '%it is away%'").await, 2);

    let metrics = async || {
        let text = node.http().get(node.url("/metrics")).send().await.unwrap().text().await.unwrap();
        text.lines().any(|line| line == "jobs_dead 3")
    };
    eventually(metrics).await;
    let (well, report, _) = output(rialto(&["doctor"]).envs(production(&world.config))).await;
    assert!(!well && report.contains("FAIL  jobs: 3 are dead") && report.contains("last_error"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_job_until_it_is_done() {
    let world = World::new().await;
    let node = world.node().await;
    for _ in 0..3 {
        enqueue(&node, 1, Some("ann")).await;
    }
    enqueue(&node, 1, Some("bob")).await;
    assert_eq!(world.count("jobs").await, 2);
    worker(&node, |_| std::future::ready(Ok(())));
    eventually(async || world.count("jobs").await == 0).await;
    enqueue(&node, 1, Some("ann")).await;
    eventually(async || world.count("jobs").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_finishes_what_it_has_begun_and_begins_nothing() {
    let mut world = World::new().await;
    world.config.jobs.concurrency = 1;
    let node = world.node().await;
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (notify, permit) = (Arc::clone(&begun), Arc::clone(&finish));
    let worker = worker(&node, move |_| {
        let (notify, permit) = (Arc::clone(&notify), Arc::clone(&permit));
        async move {
            notify.notify_one();
            permit.acquire().await.unwrap().forget();
            Ok(())
        }
    });
    enqueue(&node, 1, None).await;
    enqueue(&node, 2, None).await;
    soon(begun.notified()).await;
    node.server.app.stopping.cancel();
    finish.add_permits(2);
    soon(worker).await.unwrap();
    assert_eq!(world.count("jobs").await, 1);
    assert_eq!(world.count("jobs WHERE payload = '2' AND attempts = 0").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_the_handler_can_not_read_is_dead_at_once() {
    let world = World::new().await;
    let node = world.node().await;
    worker(&node, |_| std::future::ready(Ok(())));
    let app = &node.server.app;
    let job = NewJob::new(app, "test", &json!({ "not": "a number" })).unwrap();
    job.enqueue(&mut app.db.get().await.unwrap()).await.unwrap();
    eventually(async || world.count("jobs WHERE state = 'dead' AND attempts = 1").await == 1).await;
}
