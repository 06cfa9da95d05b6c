//! What owners get while somebody guesses, and how locks end.

use serde_json::json;

use super::{DAY, address, locked, login, login_on, owner, pass, strictly, throttled};
use crate::harness::{Node, PASSWORD, World, eventually};
use crate::smtp::Smtp;

/// Strangers lock an account as long as can be.
async fn lock(world: &World, node: &Node, email: &str) {
    for number in 0..100 {
        let answer = login(node, &address(number), email, "wrong").await;
        if answer.status == 403 {
            let delay = locked(&answer);
            if delay > DAY {
                return;
            }
            pass(world, delay).await;
        }
    }
    panic!("{email} is not locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_has_a_budget_of_its_own_and_its_token_buys_no_more() {
    let world = throttled().await;
    let node = world.node().await;
    let ((ann, device), (bob, _)) = (owner(&node, "ann").await, owner(&node, "bob").await);
    for _ in 0..5 {
        login_on(&node, &device, "10.0.0.1", &ann, "wrong").await.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    assert!(locked(&login_on(&node, &device, "10.0.0.1", &ann, PASSWORD).await) <= 30);
    // The device's failures are its own, and its token is worth nothing for another account.
    login(&node, "10.0.0.1", &ann, PASSWORD).await.ok();
    let mut statuses = Vec::new();
    for number in 0..4 {
        let token = if number % 2 == 0 { device.as_str() } else { "made up" };
        statuses.push(login_on(&node, token, "10.0.0.1", &bob, "wrong").await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 403]);

    // Whoever has the token gets twenty attempts, and then a lock.
    let mut guesses = 5;
    let lock = loop {
        let answer = login_on(&node, &device, "10.0.0.1", &ann, "wrong").await;
        if answer.status == 401 {
            guesses += 1;
            continue;
        }
        let delay = locked(&answer);
        if delay > DAY {
            break delay;
        }
        pass(&world, delay).await;
    };
    assert_eq!((guesses, lock.div_ceil(DAY)), (20, 30));
    // A good login on another device makes that one known.
    let other = login(&node, "10.0.0.2", &ann, PASSWORD).await.ok()["deviceToken"].as_str().unwrap().to_owned();
    login_on(&node, &other, "10.0.0.1", &ann, PASSWORD).await.ok();
    login_on(&node, &device, "10.0.0.1", &ann, PASSWORD).await.refused(403, "ACCOUNT_LOCKED", 1006);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_forgets_its_own_failures_and_not_those_of_others() {
    let world = throttled().await;
    let node = world.node().await;
    let (ann, _) = owner(&node, "ann").await;
    let guess = async |number: u32| login(&node, &address(number), &ann, "wrong").await.status;
    for number in 0..7 {
        assert_eq!(guess(number).await, 401);
    }
    // Two slips of the owner on a new device, and then the password.
    for _ in 0..2 {
        assert_eq!(login(&node, "10.5.5.5", &ann, "slip").await.status, 401);
    }
    login(&node, "10.5.5.5", &ann, PASSWORD).await.ok();
    let mut statuses = Vec::new();
    for number in 7..11 {
        statuses.push(guess(number).await);
    }
    assert_eq!(statuses, [401, 401, 401, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_told_once_of_a_lock_and_lifts_it_with_a_new_password() {
    let (mut world, mut smtp) = (World::new().await, Smtp::start().await);
    strictly(&mut world);
    world.config.mail = smtp.config();
    let node = world.node().await;
    node.work();
    let (ann, device) = owner(&node, "ann").await;
    lock(&world, &node, "nobody@example.com").await;
    lock(&world, &node, &ann).await;
    for number in 0..50 {
        locked(&login(&node, &address(number), &ann, "wrong").await);
    }
    eventually(async || world.count("jobs").await == 0).await;
    // When the delays began, and when the lock came.
    for _ in 0..2 {
        let mail = smtp.next().await;
        assert_eq!(mail.to, ann);
        assert!(mail.text.contains("several wrong passwords") && mail.text.contains("can't log in before"));
    }
    assert!(smtp.is_empty());

    login_on(&node, &device, "10.7.7.7", &ann, PASSWORD).await.ok();
    let forgot = super::call(&node, "/v1/auth/forgot-password", "10.7.7.7", json!({ "email": ann })).await;
    forgot.ok();
    let token = smtp.next().await.token();
    let new_password = "staple h7-Kq.92z";
    let body = json!({ "token": token, "new_password": new_password });
    super::call(&node, "/v1/auth/reset-password", "10.7.7.7", body).await.ok();
    login(&node, "10.7.7.8", &ann, new_password).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_lifts_a_lock_and_that_is_audited() {
    let world = throttled().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    let ann = node.user("ann").await;
    lock(&world, &node, &ann.email).await;
    let path = format!("/v1/auth/accounts/{}/unlock", ann.id);
    ann.post(&node, &path, json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS", 1005);
    locked(&login(&node, "10.7.7.7", &ann.email, PASSWORD).await);
    assert_eq!(admin.post(&node, &path, json!({})).await.ok()["email"], ann.email);
    login(&node, "10.7.7.7", &ann.email, PASSWORD).await.ok();
    let audited =
        format!("audit_log WHERE method LIKE '%/UnlockAccount' AND grpc_code = 0 AND account_id = '{}'", admin.id);
    assert_eq!(world.count(&audited).await, 1);
    let unknown = "/v1/auth/accounts/01890a5d-ac96-774b-bcce-b302099a8057/unlock";
    admin.post(&node, unknown, json!({})).await.refused(404, "RESOURCE_NOT_FOUND", 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_lifts_the_locks_of_devices_and_sessions_too() {
    let world = throttled().await;
    let node = world.node().await;
    let admin = world.administrator(&node, "admin").await;
    let ann = node.user("ann").await;
    let device = login(&node, "10.9.9.9", &ann.email, PASSWORD).await.ok()["deviceToken"].as_str().unwrap().to_owned();
    let confirm =
        async |password: &str| ann.post(&node, "/v1/auth/reauthenticate", json!({ "password": password })).await.status;
    for _ in 0..5 {
        assert_eq!(login_on(&node, &device, "10.0.0.1", &ann.email, "wrong").await.status, 401);
        assert_eq!(confirm("wrong").await, 401);
    }
    assert_eq!(login_on(&node, &device, "10.0.0.1", &ann.email, PASSWORD).await.status, 403);
    assert_eq!(confirm(PASSWORD).await, 403);
    let path = format!("/v1/auth/accounts/{}/unlock", ann.id);
    admin.post(&node, &path, json!({})).await.ok();
    login_on(&node, &device, "10.0.0.1", &ann.email, PASSWORD).await.ok();
    assert_eq!(confirm(PASSWORD).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_taken_a_session_can_not_guess_the_password_in_it_nor_stop_the_others() {
    let world = throttled().await;
    let node = world.node().await;
    let taken = node.user("ann").await;
    let other = node.log_in(&taken.email, &taken.id).await;
    let change = |password: &str| json!({ "current_password": password, "new_password": "staple h7-Kq.92z" });
    for number in 0..5 {
        let answer = match number % 2 {
            0 => taken.post(&node, "/v1/auth/reauthenticate", json!({ "password": "wrong" })).await,
            _ => taken.post(&node, "/v1/auth/change-password", change("wrong")).await,
        };
        answer.refused(401, "INVALID_CREDENTIALS", 1002);
    }
    locked(&taken.post(&node, "/v1/auth/change-password", change(PASSWORD)).await);
    locked(&taken.post(&node, "/v1/auth/reauthenticate", json!({ "password": PASSWORD })).await);
    locked(&taken.post(&node, "/v1/twofa/setup", json!({ "password": PASSWORD })).await);
    other.post(&node, "/v1/auth/change-password", change(PASSWORD)).await.ok();
}
