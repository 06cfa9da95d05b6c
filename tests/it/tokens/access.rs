//! Access tokens: RFC 8725, and what has gone wrong with JWTs elsewhere.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use futures_util::{StreamExt, stream};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use rialto::kernel::clock::Clock;
use serde_json::json;
use tonic::Code;

use super::{ALPHABET, over_grpc, over_rest, with_one_other_character};
use crate::harness::{Node, SEED, User, World};

const HEADER: &str = r#"{"typ":"at+jwt","alg":"EdDSA","kid":"test"}"#;
/// What a token that is not good may be refused for.
const REASONS: [&str; 4] = ["UNAUTHORIZED", "TOKEN_INVALID", "TOKEN_EXPIRED", "SESSION_REVOKED"];

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Key of a seed, as jsonwebtoken wants it (PKCS #8, RFC 8410 section 7).
fn key(seed: &[u8; 32]) -> EncodingKey {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    EncodingKey::from_ed_der(&[&prefix[..], seed].concat())
}

/// The server's own key: what it refuses of these, it refuses for what they say.
fn ours() -> [u8; 32] {
    STANDARD.decode(SEED).unwrap().try_into().unwrap()
}

fn signed_by(seed: &[u8; 32], header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = sign(message.as_bytes(), &key(seed), Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

fn signed(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    signed_by(&ours(), header, claims)
}

/// A good token taken apart.
struct Genuine {
    token: String,
    claims: String,
    parts: [String; 3],
}

impl Genuine {
    fn of(user: &User) -> Self {
        let parts: Vec<_> = user.token.split('.').map(str::to_owned).collect();
        let parts: [String; 3] = parts.try_into().unwrap();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap();
        Self { token: user.token.clone(), claims, parts }
    }

    /// The claims with one of them, given as JSON, in place of its own; none if there is no value.
    fn with(&self, claim: &str, value: Option<&str>) -> String {
        let claims: serde_json::Map<_, _> = serde_json::from_str(&self.claims).unwrap();
        let mut members: Vec<_> =
            claims.iter().filter(|(name, _)| *name != claim).map(|(name, value)| format!("{name:?}:{value}")).collect();
        members.extend(value.map(|value| format!("{claim:?}:{value}")));
        format!("{{{}}}", members.join(","))
    }
}

/// Refused over both transports, each time for one of the reasons. HTTP/1.1 takes white space off a header's ends, so that
/// the reasons may differ.
async fn refused(node: &Node, name: &str, authorization: Vec<Vec<u8>>) {
    let values: Vec<_> = authorization.iter().map(Vec::as_slice).collect();
    let (rest, (code, reason)) = tokio::join!(over_rest(node, &values), over_grpc(node, &values));
    assert_eq!(rest.status, 401, "{name}: {}", rest.body);
    assert!(
        rest.body["error"]["reason"].as_str().is_some_and(|reason| REASONS.contains(&reason)),
        "{name}: {}",
        rest.body
    );
    assert_eq!(rest.headers.get("www-authenticate").map(String::as_str), Some("Bearer"), "{name}");
    assert!(code == Code::Unauthenticated && REASONS.contains(&reason.as_str()), "{name}: {code} {reason}");
}

/// All of them refused, and the genuine one still good.
async fn all_refused(node: &Node, user: &User, cases: Vec<(String, String)>) {
    let bearer = |token: &str| vec![[b"Bearer ", token.as_bytes()].concat()];
    let calls = cases.iter().map(|(name, token)| refused(node, name, bearer(token)));
    stream::iter(calls).buffer_unordered(16).collect::<Vec<()>>().await;
    user.get(node, "/v1/auth/me").await.ok();
}

fn named(kind: &str, tokens: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    tokens.into_iter().map(|token| (format!("{kind}: {token}"), token)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_says_anything_but_ours_is_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let genuine = Genuine::of(&user);
    // That this way to sign is right.
    over_rest(&node, &[format!("Bearer {}", signed(HEADER, &genuine.claims)).as_bytes()]).await.ok();

    let attacker = [7; 32];
    let public = encode(Ed25519KeyPair::from_seed_unchecked(&attacker).unwrap().public_key());
    let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":{public:?},"kid":"test"}}"#);
    let mut headers = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", "HS256", "HS512", "RS256", "PS256", "ES256", "Ed25519", "eddsa", ""] {
        headers.push(format!(r#"{{"typ":"at+jwt","alg":{alg:?},"kid":"test"}}"#));
    }
    for alg in ["null", "7", r#"["EdDSA"]"#, r#"{"EdDSA":1}"#] {
        headers.push(format!(r#"{{"typ":"at+jwt","alg":{alg},"kid":"test"}}"#));
    }
    for typ in [r#""JWT""#, r#""at+JWT""#, r#""refresh+jwt""#, r#""application/at+jwt""#, r#""""#, "null", "7"] {
        headers.push(format!(r#"{{"typ":{typ},"alg":"EdDSA","kid":"test"}}"#));
    }
    let kids = [
        r#""unknown""#,
        r#""""#,
        r#""TEST""#,
        r#""test ""#,
        r#""test\u0000""#,
        r#""../../../../dev/null""#,
        r#""file:///dev/null""#,
        r#""test' OR '1'='1""#,
        r#""'; DROP TABLE accounts; --""#,
        r#""test|id""#,
        "null",
        "0",
        r#"["test"]"#,
    ];
    headers.extend(kids.map(|kid| format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":{kid}}}"#)));
    for missing in [
        r#"{"alg":"EdDSA","kid":"test"}"#,
        r#"{"typ":"at+jwt","kid":"test"}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA"}"#,
        "{}",
        "[]",
        "null",
        "",
        r#"{"typ":"at+jwt","alg":"none","alg":"EdDSA","kid":"test"}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","kid":"other","kid":"test"}"#,
    ] {
        headers.push(missing.to_owned());
    }
    for more in [
        format!(r#""jwk":{jwk}"#),
        r#""jku":"http://127.0.0.1:9/keys""#.into(),
        r#""x5u":"http://127.0.0.1:9/cert""#.into(),
        r#""x5c":["MIIB"]"#.into(),
        r#""x5t":"AAAA""#.into(),
        r#""x5t#S256":"AAAA""#.into(),
        r#""crit":["exp"]"#.into(),
        r#""crit":[]"#.into(),
        r#""b64":false,"crit":["b64"]"#.into(),
        r#""cty":"JWT""#.into(),
        r#""zip":"DEF""#.into(),
        r#""enc":"A256GCM""#.into(),
        r#""iss":"rialto""#.into(),
    ] {
        headers.push(format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"test",{more}}}"#));
    }
    let mut cases: Vec<_> = headers.iter().map(|header| (header.clone(), signed(header, &genuine.claims))).collect();
    // Signed by somebody else, with a key that the header brings along, or not at all.
    let header = HEADER.replace('}', &format!(r#","jwk":{jwk}}}"#));
    cases.push(("the attacker's jwk".into(), signed_by(&attacker, header, &genuine.claims)));
    cases.push(("the attacker's key".into(), signed_by(&attacker, HEADER, &genuine.claims)));
    for alg in ["none", "None", "nOnE"] {
        let header = encode(HEADER.replace("EdDSA", alg));
        for signature in ["", &genuine.parts[2]] {
            cases.push((format!("{alg} {signature}"), format!("{header}.{}.{signature}", genuine.parts[1])));
        }
    }
    all_refused(&node, &user, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_key_is_no_secret_to_sign_with() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let genuine = Genuine::of(&user);
    let public = Ed25519KeyPair::from_seed_unchecked(&ours()).unwrap().public_key().as_ref().to_vec();
    let der = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &public].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(&der));
    let jwks = node.rest(reqwest::Method::GET, "/.well-known/jwks.json", None, None).await.ok();
    let secrets = [
        public.clone(),
        encode(&public).into_bytes(),
        der,
        pem.clone().into_bytes(),
        (pem + "\n").into_bytes(),
        jwks.to_string().into_bytes(),
        jwks["keys"][0].to_string().into_bytes(),
        Vec::new(),
        vec![0; 32],
    ];
    let mut cases = Vec::new();
    for (algorithm, name) in [(Algorithm::HS256, "HS256"), (Algorithm::HS512, "HS512")] {
        // The header's word counts, or the key's.
        for header in [HEADER.replace("EdDSA", name), HEADER.to_owned()] {
            for secret in &secrets {
                let message = format!("{}.{}", encode(&header), genuine.parts[1]);
                let signature = sign(message.as_bytes(), &EncodingKey::from_secret(secret), algorithm).unwrap();
                cases.push((format!("{header} {secret:?}"), format!("{message}.{signature}")));
            }
        }
    }
    all_refused(&node, &user, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_missing_malformed_doubled_or_not_for_us_are_refused() {
    let world = World::new().await;
    let node = world.node().await;
    let (user, other) = (node.user("ann").await, node.user("bob").await);
    let genuine = Genuine::of(&user);
    let mut payloads: Vec<String> = Vec::new();
    let mut replaced = |claim: &str, values: &[&str]| {
        payloads.push(genuine.with(claim, None));
        payloads.extend(values.iter().map(|value| genuine.with(claim, Some(value))));
    };
    let not_times = [
        "null",
        "true",
        r#""""#,
        r#""4102444800""#,
        "-1",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551615",
        "1e300",
        "4102444800.5",
        "1e-7",
        "[4102444800]",
        r#"{"a":1}"#,
    ];
    replaced("exp", &[&not_times[..], &["0", "1"]].concat());
    replaced("iat", &[&not_times[..], &["4102444800"]].concat());
    replaced("iss", &["null", r#""another""#, r#""""#, r#""rialto/""#, r#""RIALTO""#, r#"["rialto"]"#, "7"]);
    replaced(
        "aud",
        &["null", r#""another""#, r#""""#, r#"["another"]"#, r#"["rialto"]"#, r#"["another","rialto"]"#, "[]", "7"],
    );
    let nil = r#""00000000-0000-0000-0000-000000000000""#;
    replaced("sub", &["null", r#""ann""#, "7", nil, &format!("{:?}", other.id), r#""' OR 1=1 --""#]);
    replaced("sid", &["null", "7", nil, r#""../1""#]);
    replaced("ver", &["null", "-1", "1000", "4294967296", r#""0""#, "0.5"]);
    for nbf in [r#""0""#, "4102444800", "9223372036854775807", "1e300", "1.5", "[]", "true"] {
        payloads.push(genuine.with("nbf", Some(nbf)));
    }
    for claim in ["iss", "aud", "sub", "sid", "ver", "iat", "exp"] {
        let claims: serde_json::Value = serde_json::from_str(&genuine.claims).unwrap();
        // The last one counts in one library and the first in another.
        payloads.push(genuine.claims.replacen('{', &format!("{{{claim:?}:{},", claims[claim]), 1));
    }
    for odd in ["", "null", "7", "\"x\"", "[]", "{}", "{", "\u{feff}{}", "{\"iss\":\"rialto\",}"] {
        payloads.push(odd.to_owned());
    }
    payloads.push("[".repeat(2000));
    payloads.push(format!("\u{feff}{}", genuine.claims));
    payloads.push(format!("{} {{}}", genuine.claims));
    let mut cases: Vec<_> = payloads.into_iter().map(|claims| (claims.clone(), signed(HEADER, claims))).collect();
    cases.push(("not UTF-8".into(), signed(HEADER, [b"{\"iss\":\"\xff\"}", genuine.claims.as_bytes()].concat())));
    // A token in a token.
    cases.push(("nested".into(), signed(HEADER, format!("{:?}", genuine.token))));
    cases.push(("nested, bare".into(), signed(HEADER, &genuine.token)));
    all_refused(&node, &user, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_as_it_was_issued_and_in_no_other_spelling() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let Genuine { token, claims, parts } = &Genuine::of(&user);
    let [header, payload, signature] = parts;
    let mut cases = named("one character", with_one_other_character(token));
    cases.extend(named("cut off", (0..token.len()).map(|end| token[..end].to_owned())));
    cases.extend(named("begun later", (1..token.len()).step_by(7).map(|start| token[start..].to_owned())));
    // Bits that belong to no byte, too (RFC 4648, section 3.5).
    for part in 0..3 {
        cases.extend(named(
            "last character",
            ALPHABET.iter().filter_map(|letter| {
                let mut parts = parts.clone();
                let last = parts[part].pop().unwrap();
                parts[part].push(char::from(*letter));
                (last != char::from(*letter)).then(|| parts.join("."))
            }),
        ));
    }
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let resigned = |bytes: &[u8]| format!("{header}.{payload}.{}", encode(bytes));
    let standard = |part: &str| STANDARD.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    let padded = |part: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    let jws = json!({ "payload": payload, "signatures": [{ "protected": header, "signature": signature }] });
    let flattened = json!({ "payload": payload, "protected": header, "signature": signature });
    let jwe =
        format!("{}..{}.{payload}.AAAA", encode(r#"{"alg":"dir","enc":"A256GCM","kid":"test"}"#), encode([0; 12]));
    cases.extend(named(
        "form",
        [
            format!("{token}."),
            format!(".{token}"),
            format!("{header}..{payload}.{signature}"),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{signature}.{signature}"),
            format!("{header}.{payload}.{signature}.A.A"),
            format!(".{payload}.{signature}"),
            format!("{header}..{signature}"),
            "..".into(),
            "...".into(),
            ".".into(),
            "....".into(),
            format!("{token}="),
            format!("{token}=="),
            format!("{token}%3D"),
            format!("{header}=.{payload}.{signature}"),
            format!("{}.{}.{}=", padded(header), padded(payload), padded(signature)),
            format!("{}.{}.{}", standard(header), standard(payload), standard(signature)),
            format!("{header} .{payload}.{signature}"),
            format!("{header}.{payload} .{signature}"),
            format!("{header}.\t{payload}.{signature}"),
            format!("{header}.{payload}.{signature} {signature}"),
            format!("{token},{token}"),
            format!("{token}, Bearer {token}"),
            format!("{token} {token}"),
            format!("\"{token}\""),
            format!("'{token}'"),
            format!("<{token}>"),
            format!("Bearer {token}"),
            token.to_uppercase(),
            token.to_lowercase(),
            token.chars().rev().collect(),
            format!("{payload}.{header}.{signature}"),
            jws.to_string(),
            flattened.to_string(),
            jwe.clone(),
            format!("{jwe}.AAAA"),
            signed(format!(" {HEADER}"), format!("{claims} x")),
            // Of the signature: S + L (RFC 8032, section 5.1.7), a point of small order with S = 0, and other lengths.
            resigned(&plus_order(&bytes)),
            resigned(&[&[1][..], &[0; 63]].concat()),
            resigned(&[0; 64]),
            resigned(&[255; 64]),
            resigned(&bytes[..63]),
            resigned(&[&bytes[..], &[0]].concat()),
            // Not ASCII, or not text.
            format!("{token}é"),
            format!("{header}．{payload}．{signature}"),
            format!("\u{200b}{token}"),
            // Long ones.
            "A".repeat(4097),
            format!("{}.{payload}.{signature}", "A".repeat(4096)),
            format!("{header}.{}.{signature}", encode(format!("{claims}{}", " ".repeat(8000)))),
            format!("{token}{}", ".".repeat(8000)),
            "eyJ".repeat(3000),
            user.refresh.clone(),
            user.id.clone(),
        ],
    ));
    all_refused(&node, &user, cases).await;
}

/// The same signature with the order of the group added to S: good where S is not checked.
fn plus_order(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut sum = signature.to_vec();
    let mut carry = 0;
    for (byte, order) in sum[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    assert_eq!(carry, 0);
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorization_header_is_one_bearer_token() {
    let world = World::new().await;
    let node = world.node().await;
    let user = node.user("ann").await;
    let token = &user.token;
    // The scheme has no case (RFC 9110, section 11.1).
    for scheme in ["bearer", "BEARER", "Bearer"] {
        over_rest(&node, &[format!("{scheme} {token}").as_bytes()]).await.ok();
    }
    for value in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        token.clone(),
        format!("Basic {token}"),
        format!("BearerX {token}"),
        format!("Bearer:{token}"),
        format!("Bearer\u{a0}{token}"),
        format!("DPoP {token}"),
        format!("Bearer {token}\u{e9}"),
        "Bearer null".into(),
        "Bearer undefined".into(),
    ] {
        refused(&node, &value, vec![value.clone().into_bytes()]).await;
    }
    refused(&node, "not text", vec![b"Bearer \xff\xfe".to_vec()]).await;
    // Two servers could believe different ones of two. Over REST the gateway refuses the request before the gate.
    let two: [&[u8]; 2] = [format!("Bearer {token}").leak().as_bytes(), b"Bearer x"];
    assert_eq!(over_grpc(&node, &two).await, (Code::Unauthenticated, "TOKEN_INVALID".into()));
    assert_eq!(over_rest(&node, &two).await.status, 400);
    // Larger than the head of a request may be.
    let huge = format!("Bearer {}", "A".repeat(1 << 20));
    // The connection may be closed while the client still writes.
    if let Ok(answer) = node.http().get(node.url("/v1/auth/me")).header("authorization", huge).send().await {
        assert_eq!(answer.status(), 431);
    }
    user.get(&node, "/v1/auth/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_server_whose_clock_is_ahead_or_behind_counts_within_the_leeway() {
    let mut world = World::new().await;
    world.config.auth.leeway_seconds = 60;
    let seconds = Duration::from_secs;
    let (ahead, far_ahead) = (Clock::default(), Clock::default());
    ahead.advance(seconds(30));
    far_ahead.advance(seconds(300));
    let node = world.node().await;
    let (near, far) = (world.node_at(&ahead).await, world.node_at(&far_ahead).await);
    let ann = node.user("ann").await;
    let by_near = near.log_in(&ann.email, &ann.id).await;
    let by_far = far.log_in(&ann.email, &ann.id).await;
    // Of one that is behind, on the one that is ahead, and the other way round.
    ann.get(&near, "/v1/auth/me").await.ok();
    by_near.get(&node, "/v1/auth/me").await.ok();
    // Too far apart to be believed, until the time has come.
    by_far.get(&node, "/v1/auth/me").await.refused(401, "TOKEN_INVALID", 1004);
    let advance = |by: u64| [&world.clock, &ahead].map(|clock| clock.advance(seconds(by)));
    advance(270);
    by_far.get(&node, "/v1/auth/me").await.ok();
    // To the end of its life by the clock of the one that issued it, also where it is over by the other's.
    advance(890 - 270);
    for node in [&node, &near] {
        ann.get(node, "/v1/auth/me").await.ok();
    }
    advance(71);
    for node in [&node, &near] {
        ann.get(node, "/v1/auth/me").await.refused(401, "TOKEN_EXPIRED", 1003);
    }
}
