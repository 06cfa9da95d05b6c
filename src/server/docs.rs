//! The documents of the API and the page that shows them: Swagger UI (<https://github.com/swagger-api/swagger-ui>,
//! Apache-2.0), which `build/docs.rs` puts into the binary.

use std::io::{Read, Write};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::openapi;

/// What the page may load and where it may send requests: its own origin. Swagger UI draws its icons from its style
/// sheet, as `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// The paths of [`all`].
pub const PATHS: [&str; 7] = [
    "/docs",
    "/api-docs",
    "/docs/start.js",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui-bundle.js",
    "/openapi.json",
    "/asyncapi.json",
];

/// A file that stays the same while the server runs.
#[derive(Clone)]
pub struct File {
    content_type: HeaderValue,
    cache: HeaderValue,
    gzip: Bytes,
    /// Of the plain bytes and of the compressed ones: strong tags tell them apart (RFC 9110, section 8.8.3).
    tags: [HeaderValue; 2],
}

/// Every file, with its path.
pub fn all() -> anyhow::Result<Vec<(&'static str, File)>> {
    const HTML: &str = "text/html; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let page = File::new(HTML, include_bytes!("docs.html"))?;
    let gzip = |content_type, bytes: &'static [u8]| File::of_gzip(content_type, Bytes::from_static(bytes));
    let script = gzip(SCRIPT, include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz")))?;
    let style = gzip("text/css; charset=utf-8", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz")))?;
    let json = |document| File::new("application/json", &serde_json::to_vec(&document)?);
    let files = [
        page.clone(),
        page,
        File::new(SCRIPT, include_bytes!("docs.js"))?,
        style,
        script,
        json(openapi::document()?)?,
        json(openapi::async_document()?)?,
    ];
    Ok(PATHS.into_iter().zip(files).collect())
}

impl File {
    fn new(content_type: &'static str, bytes: &[u8]) -> anyhow::Result<Self> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(bytes)?;
        Self::of_gzip(content_type, gzip.finish()?.into())
    }

    fn of_gzip(content_type: &'static str, gzip: Bytes) -> anyhow::Result<Self> {
        // The compressed bytes stand for the plain ones.
        let hash: String = Sha256::digest(&gzip).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let tags = [format!("\"{hash}\"").parse()?, format!("\"{hash}-gzip\"").parse()?];
        // Always asked for again, and not sent again while it is the same.
        let cache = HeaderValue::from_static("no-cache");
        Ok(Self { content_type: HeaderValue::from_static(content_type), cache, gzip, tags })
    }

    /// The file, or 304 if the client has it.
    pub fn answer(&self, request: &HeaderMap) -> Response {
        let compressed = takes_gzip(request);
        let [plain_tag, gzip_tag] = &self.tags;
        let tag = if compressed { gzip_tag } else { plain_tag };
        let mut response = if has(request, tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if compressed {
            let mut response = self.gzip.clone().into_response();
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            let mut plain = Vec::new();
            match GzDecoder::new(&*self.gzip).read_to_end(&mut plain) {
                Ok(_) => plain.into_response(),
                Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::CACHE_CONTROL, self.cache.clone());
        headers.insert(header::ETAG, tag.clone());
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

/// Members of a header that is a list.
fn members<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn takes_gzip(request: &HeaderMap) -> bool {
    members(request, &header::ACCEPT_ENCODING).any(|member| {
        let mut parts = member.split(';').map(str::trim);
        let refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
        parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip")) && !parts.any(refused)
    })
}

/// `If-None-Match` (RFC 9110, section 13.1.2): compared weakly.
fn has(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let same = |member: &str| member.strip_prefix("W/").unwrap_or(member).as_bytes() == tag.as_bytes();
    members(request, &header::IF_NONE_MATCH).any(|member| member == "*" || same(member))
}
