//! What becomes of tokens that somebody has tampered with: refused, with a reason, over gRPC and REST, at little cost.

mod access;
mod opaque;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rialto::proto::rialto::auth::v1::GetMeRequest;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use crate::harness::{Answer, Node, refusal};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// `GetMe` over REST with these headers.
async fn over_rest(node: &Node, authorization: &[&[u8]]) -> Answer {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    Answer::of(node.http().get(node.url("/v1/auth/me")).headers(headers).send().await.unwrap()).await
}

/// The same over gRPC: how it ends, and why.
async fn over_grpc(node: &Node, authorization: &[&[u8]]) -> (Code, String) {
    let mut request = tonic::Request::new(GetMeRequest {});
    for value in authorization {
        let value = MetadataValue::<Ascii>::try_from(*value).unwrap();
        request.metadata_mut().append("authorization", value);
    }
    match node.auth().get_me(request).await {
        Ok(_) => (Code::Ok, String::new()),
        refused => refusal(refused),
    }
}

/// One character replaced, at each place, by the next one of the alphabet (a dot, and what is not of it, by `A`).
fn with_one_other_character(token: &str) -> impl Iterator<Item = String> {
    (0..token.len()).map(move |index| {
        let mut bytes = token.as_bytes().to_vec();
        let place = ALPHABET.iter().position(|letter| *letter == bytes[index]);
        bytes[index] = place.map_or(b'A', |place| ALPHABET[(place + 1) % 64]);
        String::from_utf8(bytes).unwrap()
    })
}
