//! `/dev/mail`: the mail that `rialto dev` keeps instead of sending it, as pages, and as JSON for those who accept that.

use axum::Router;
use axum::extract::Path;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::error::Error;

/// The mail's HTML form has inline styles, and nothing else that a browser would run or load.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Whether a path is one of these pages.
pub fn is_path(path: &str) -> bool {
    path == "/dev/mail" || path.starts_with("/dev/mail/")
}

/// The pages. There are none when mail does not stay here.
pub fn router(app: &App) -> Router {
    let (list, one) = (app.clone(), app.clone());
    let list = move |headers: HeaderMap| async move {
        let Some(inbox) = list.mail.inbox() else { return StatusCode::NOT_FOUND.into_response() };
        answer(&headers, &serde_json::json!({ "mails": inbox.all() }), inbox.page())
    };
    let one = move |Path(id): Path<Uuid>, headers: HeaderMap| async move {
        match one.mail.inbox().and_then(|inbox| inbox.get(id)) {
            Some(mail) => answer(&headers, &mail, mail.page()),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    };
    Router::new().route("/dev/mail", get(list)).route("/dev/mail/{id}", get(one))
}

fn answer(headers: &HeaderMap, value: &impl Serialize, page: Result<String, Error>) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        return axum::Json(value).into_response();
    }
    match page {
        Ok(page) => ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(page)).into_response(),
        Err(error) => {
            tracing::error!(error = error.report(), "a page can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
