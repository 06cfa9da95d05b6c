//! What attackers get.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use rialto::kernel::config::Throttle;
use rialto::proto::rialto::auth::v1::LoginRequest;
use rialto::server::Server;
use tonic::Code;
use tonic_types::StatusExt;

use super::{DAY, address, locked, locked_until, login, login_on, owner, pass, throttled};
use crate::harness::{Answer, Node, PASSWORD, World, refusal};

/// 300 passwords, the right one last.
fn passwords() -> Vec<String> {
    (0..299).map(|number| format!("guess {number}")).chain([PASSWORD.to_owned()]).collect()
}

/// How often each status was answered.
fn tally(answers: &[Answer]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut tally, answer| {
        *tally.entry(answer.status).or_default() += 1;
        tally
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_delays_the_next_attempt_longer_and_a_delayed_one_is_not_looked_at() {
    let world = throttled().await;
    let node = world.node().await;
    let (ann, _) = owner(&node, "ann").await;
    for _ in 0..3 {
        login(&node, "10.0.0.1", &ann, "wrong").await.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    for delay in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let (right, wrong) =
            (login(&node, "10.0.0.1", &ann, PASSWORD).await, login(&node, "10.0.0.1", &ann, "wrong").await);
        assert!((delay - 5..=delay).contains(&locked(&right)), "{}", right.body);
        assert_eq!(right.body["error"]["message"], wrong.body["error"]["message"]);
        assert_eq!(locked_until(&right), locked_until(&wrong));
        pass(&world, delay).await;
        login(&node, "10.0.0.1", &ann, "wrong").await.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    let request = || LoginRequest { email: ann.clone(), password: PASSWORD.into(), ..Default::default() };
    let mut from_there = tonic::Request::new(request());
    from_there.metadata_mut().insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
    let status = node.auth().login(from_there).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "ACCOUNT_LOCKED"));
    assert!(info.metadata["locked_until"].parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{info:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap().as_secs() > 3500);

    pass(&world, 3600).await;
    login(&node, "10.0.0.1", &ann, PASSWORD).await.ok();
    // The failures from there are forgotten.
    for _ in 0..3 {
        login(&node, "10.0.0.1", &ann, "wrong").await.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    locked(&login(&node, "10.0.0.1", &ann, "wrong").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_passwords_does_not_get_in_from_one_address_or_many_and_the_owner_and_others_do() {
    let world = throttled().await;
    let node = world.node().await;
    let ((ann, device), (bob, _)) = (owner(&node, "ann").await, owner(&node, "bob").await);
    let mut answers = Vec::new();
    for password in passwords() {
        answers.push(login(&node, "10.0.0.1", &ann, &password).await);
    }
    assert_eq!(tally(&answers), BTreeMap::from([(401, 3), (403, 297)]));
    login_on(&node, &device, "10.0.0.1", &ann, PASSWORD).await.ok();

    let mut answers = Vec::new();
    for (number, password) in (2..).zip(passwords()) {
        answers.push(login(&node, &address(number), &ann, &password).await);
        if number % 100 == 0 {
            login_on(&node, &device, "10.8.8.8", &ann, PASSWORD).await.ok();
        }
    }
    assert_eq!(tally(&answers), BTreeMap::from([(401, 7), (403, 293)]));
    login_on(&node, &device, "10.0.0.2", &ann, PASSWORD).await.ok();
    // Nobody else is concerned, not even at the attacker's address.
    login(&node, "10.0.0.1", &bob, PASSWORD).await.ok();
    login(&node, "10.0.0.2", &bob, PASSWORD).await.ok();
}

/// Checks that of guesses at once so many were looked at, and no more of those that follow. A busy machine may take Redis for
/// gone, which refuses too, and may have counted what it then did not look at.
async fn looked_at(at_once: Vec<Answer>, most: usize, mut next: impl AsyncFnMut() -> Answer) {
    let tally = tally(&at_once);
    assert!(tally.keys().all(|status| [401, 403, 503].contains(status)), "{tally:?}");
    let mut guesses = tally.get(&401).copied().unwrap_or_default();
    assert!((1..=most).contains(&guesses), "{tally:?}");
    loop {
        match next().await.status {
            401 => guesses += 1,
            403 => break,
            status => assert_eq!(status, 503),
        }
    }
    assert!(guesses <= most, "{guesses}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guesses_at_once_get_no_more_attempts_than_one_after_the_other() {
    let world = throttled().await;
    let nodes = [world.node().await, world.node().await];
    let ((ann, _), (bob, device)) = (owner(&nodes[0], "ann").await, owner(&nodes[0], "bob").await);
    let guess = |number: u32| login(&nodes[number as usize % 2], "10.0.0.1", &ann, "wrong");
    looked_at(join_all((0..200).map(guess)).await, 3, async || guess(0).await).await;
    let (nodes, bob) = (&nodes, &bob);
    let guess = |number: u32| async move { login(&nodes[number as usize % 2], &address(number), bob, "wrong").await };
    looked_at(join_all((0..200).map(guess)).await, 10, async || guess(1000).await).await;
    let guess = |number: u32| login_on(&nodes[number as usize % 2], &device, "10.0.0.3", bob, "wrong");
    looked_at(join_all((0..200).map(guess)).await, 5, async || guess(0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn right_passwords_at_once_do_not_count_against_each_other() {
    let world = throttled().await;
    let node = world.node().await;
    let (ann, device) = owner(&node, "ann").await;
    let strangers = join_all((0..12).map(|_| login(&node, "10.0.0.1", &ann, PASSWORD))).await;
    assert_eq!(tally(&strangers), BTreeMap::from([(200, 12)]));
    let on_device = join_all((0..12).map(|_| login_on(&node, &device, "10.0.0.1", &ann, PASSWORD))).await;
    assert_eq!(tally(&on_device), BTreeMap::from([(200, 12)]));
}

/// Guesses as fast as the server lets somebody who has so many addresses, for a time; returns how many were looked at, and for
/// how long the last one locks.
async fn patiently(world: &World, node: &Node, email: &str, addresses: u32, seconds: u64) -> (u32, u64) {
    let (mut guesses, mut elapsed) = (0, 0);
    for number in 0.. {
        let answer = login(node, &address(number % addresses), email, "wrong").await;
        if answer.status == 401 {
            guesses += 1;
            continue;
        }
        let delay = locked(&answer);
        elapsed += delay;
        if elapsed > seconds {
            return (guesses, delay);
        }
        pass(world, delay).await;
    }
    unreachable!("numbers don't end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_guessing_gives_what_the_table_says() {
    let world = throttled().await;
    let node = world.node().await;
    for name in ["ann", "bob", "nobody"] {
        if name != "nobody" {
            owner(&node, name).await;
        }
    }
    let (guesses, _) = patiently(&world, &node, "ann@example.com", 1, DAY).await;
    assert_eq!(guesses, 32);
    // After the fortieth the account is locked for a month, and then for twice as long each time.
    for email in ["bob@example.com", "nobody@example.com"] {
        let (guesses, lock) = patiently(&world, &node, email, 1000, DAY + 3600).await;
        assert_eq!((guesses, lock.div_ceil(DAY)), (40, 30), "{email}");
        pass(&world, 30 * DAY).await;
        let (guesses, lock) = patiently(&world, &node, email, 1000, DAY).await;
        assert_eq!((guesses, lock.div_ceil(DAY)), (1, 60), "{email}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_guesses_are_remembered_for_a_week_each() {
    let world = throttled().await;
    let node = world.node().await;
    let (ann, _) = owner(&node, "ann").await;
    let guess = async |number| login(&node, &address(number), &ann, "wrong").await.status;
    for number in 0..10 {
        assert_eq!(guess(number).await, 401);
    }
    pass(&world, 30).await;
    // Two are forgotten after two weeks: the tenth delays again.
    pass(&world, 14 * DAY + 1).await;
    let mut statuses = Vec::new();
    for number in 10..13 {
        statuses.push(guess(number).await);
    }
    assert_eq!(statuses, [401, 401, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trying_one_password_on_many_accounts_delays_the_address() {
    let world = throttled().await;
    let node = world.node().await;
    let (ann, device) = owner(&node, "ann").await;
    for number in 0..20 {
        assert_eq!(login(&node, "10.0.0.1", &format!("{number}@example.com"), PASSWORD).await.status, 401);
    }
    for delay in [30, 60, 120, 240, 480, 900, 900] {
        let refused = login(&node, "10.0.0.1", &ann, PASSWORD).await;
        assert!((delay - 5..=delay).contains(&locked(&refused)), "{}", refused.body);
        pass(&world, delay).await;
        assert_eq!(login(&node, "10.0.0.1", "z@example.com", PASSWORD).await.status, 401);
        forget_accounts(&world).await;
    }
    login(&node, "10.0.0.2", &ann, PASSWORD).await.ok();
    login_on(&node, &device, "10.0.0.1", &ann, PASSWORD).await.ok();
}

/// Forgets what is counted of accounts, but not of addresses.
async fn forget_accounts(world: &World) {
    let client = redis::Client::open(world.config.redis.url.expose()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let keys = format!("{}throttle:password:*", world.config.redis.prefix);
    const SCRIPT: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end return true";
    let done: bool = redis::cmd("EVAL").arg(SCRIPT).arg(0).arg(keys).query_async(&mut redis).await.unwrap();
    assert!(done);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_an_account_is_throttled_alike_over_grpc() {
    let world = throttled().await;
    let node = world.node().await;
    owner(&node, "ann").await;
    let mut fates = Vec::new();
    for email in ["ann@example.com", "Nobody@example.com"] {
        let mut fate = Vec::new();
        for _ in 0..5 {
            let request = LoginRequest { email: email.into(), password: "wrong".into(), ..Default::default() };
            fate.push(refusal(node.auth().login(request).await));
        }
        fates.push(fate);
    }
    assert_eq!(fates[0], fates[1]);
    assert_eq!(fates[0][4], (Code::PermissionDenied, "ACCOUNT_LOCKED".into()));
    // Upper and lower case are one address.
    locked(&login(&node, "127.0.0.1", "NOBODY@example.com", "wrong").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_unsafe_limits_does_not_start() {
    let mut world = World::new().await;
    world.config.auth.throttle = Throttle { account_max_failures: 100, ..Throttle::default() };
    let refused = Server::start(world.config.clone(), world.clock.clone()).await;
    assert!(refused.err().unwrap().to_string().contains("auth.throttle.account_max_failures"));
}
