//! Webhooks, signed as Standard Webhooks (standardwebhooks.com, 1.0.0) wants it.
//!
//! They go to the configured URL and nowhere else: redirects are not followed, proxies of the environment not asked, and of
//! the answer only the status is read.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};
use crate::kernel::jobs::Failure;

/// The longest that a call may take, the connection with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a body. Whatever is not a 2xx is tried again: a receiver that is set up wrongly may be mended.
pub async fn deliver(app: &App, id: Uuid, body: String) -> Result<(), Failure> {
    let config = &app.config.security;
    // It was taken out of the configuration meanwhile.
    let (Some(uri), Some(key)) = (config.webhook(), config.webhook_key()) else { return Ok(()) };
    let (id, timestamp) = (format!("msg_{id}"), app.clock.now().timestamp());
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header("content-type", "application/json")
        .header("user-agent", concat!("rialto/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", sign(&key, &id, timestamp, &body))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::Never(Error::internal("a webhook can't be written", error)))?;
    match tokio::time::timeout(PATIENCE, send(request)).await {
        Ok(Ok(status)) if status.is_success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("the webhook was answered {status}")).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(failed("the webhook took too long").into()),
    }
}

async fn send(request: Request<Full<Bytes>>) -> Result<StatusCode, Error> {
    // Calls are rare: connections are not kept, and certificates read anew.
    let roots = HttpsConnectorBuilder::new().with_native_roots();
    let roots = roots.map_err(|error| Error::internal("the system's certificates can't be read", error))?;
    let client = Client::builder(TokioExecutor::new()).build(roots.https_or_http().enable_http1().build());
    let response = client.request(request).await;
    response.map(|response| response.status()).map_err(|error| failed("the webhook can't be reached").caused_by(error))
}

fn failed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Reason::UpstreamError, message)
}

/// `webhook-signature`: HMAC-SHA256 of `id.timestamp.body`.
fn sign(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_example() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
