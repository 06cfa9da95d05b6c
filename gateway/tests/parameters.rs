//! What path, query and body may set together, and how deep a parameter may reach.

mod support;

use http::Request;
use http_body_util::Full;
use prost_reflect::DescriptorPool;
use rialto_gateway::openapi::{Info, document};
use rialto_gateway::{Builder, Gateway};
use serde_json::json;
use support::websocket::Server;
use support::{Answer, Fixture, compile_text, fixture, ok};
use tower::util::BoxCloneSyncService;

const PROTO: &str = r#"syntax = "proto3"; package t;
    import "google/api/annotations.proto"; import "google/api/httpbody.proto"; import "google/protobuf/field_mask.proto";
    import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
    import "rialto/gateway/v1/web_socket.proto";
    message Node {
      string s = 1; Node n = 2; string t = 3; repeated string many = 4; map<int32, string> m = 5;
      google.protobuf.Timestamp ts = 6; google.protobuf.StringValue w = 7;
      oneof choice { string name = 8; int32 id = 9; Node sub = 10; }
      repeated google.api.HttpBody files = 11;
    }
    message Update { Node node = 1; google.protobuf.FieldMask update_mask = 2; }
    message Upload { Node about = 1; google.api.HttpBody file = 2; }
    service S {
      rpc Get(Node) returns (Node) {
        option (google.api.http) = { get: "/v1/get" additional_bindings { get: "/v1/{id}/by" }
          additional_bindings { get: "/v1/at/{ts}" } additional_bindings { get: "/v1/since/{ts.seconds}" }
          additional_bindings { put: "/v1/sub" body: "sub" } additional_bindings { post: "/v1/all/{id}" body: "*" } };
      }
      rpc Patch(Update) returns (Update) { option (google.api.http) = { patch: "/v1/node" body: "node" }; }
      rpc Files(Node) returns (Node) {
        option (google.api.http) = { put: "/v1/files" body: "files" response_body: "files" };
      }
      rpc Send(stream Upload) returns (Upload) { option (google.api.http) = { post: "/v1/send" body: "file" }; }
      rpc Chat(stream Node) returns (stream Node) { option (rialto.gateway.v1.web_socket) = { path: "/v1/chat/{id}" }; }
    }"#;

fn echo() -> Fixture {
    echo_with(|b| b)
}

fn echo_with(configure: impl FnOnce(Builder) -> Builder) -> Fixture {
    fixture(&compile_text(PROTO), configure, |call| Ok(ok([call.message.to_vec()])))
}

/// The status, the field and what is wrong with it.
#[track_caller]
fn violation(answer: &Answer) -> (u16, String, String) {
    let violation = answer.json()["error"]["details"][0]["fieldViolations"][0].clone();
    let text = |key: &str| violation[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("field"), text("description"))
}

fn nested(levels: usize) -> String {
    format!("{}s", "n.".repeat(levels - 1))
}

#[tokio::test]
async fn a_parameter_reaches_as_deep_as_a_message_nests_and_no_deeper() {
    let f = echo();
    let (mut deepest, answer) = (json!({ "s": "x" }), f.get(&format!("/v1/get?{}=x", nested(100))).await);
    (1..100).for_each(|_| deepest = json!({ "n": deepest }));
    assert_eq!((answer.status, answer.json()), (200, deepest));
    for levels in [101, 3_000, 25_000] {
        let (status, field, problem) = violation(&f.get(&format!("/v1/get?{}=x", nested(levels))).await);
        assert_eq!((status, problem.as_str()), (400, "nested too deeply"), "{levels}");
        assert!(field.len() < 500, "{field}");
    }
}

#[tokio::test]
async fn so_do_the_parameters_of_a_web_socket_and_the_fields_of_a_form() {
    let upstream = BoxCloneSyncService::new(tower::service_fn(|_: Request<_>| async {
        Err::<http::Response<tonic::body::Body>, _>(tonic::Status::internal("the request must not come here"))
    }));
    let gateway = Gateway::builder(&compile_text(PROTO)).build(upstream).expect("gateway");
    let server = Server::start(gateway).await;
    let protocol = [("sec-websocket-protocol", "rialto.json.v1")];
    let request = support::websocket::request(&format!("/v1/chat/7?{}=x", nested(20_000)), &protocol);
    assert_eq!(violation(&server.refused(&request).await).2, "nested too deeply");

    for levels in [100, 3_000] {
        let name = format!("about.{}", nested(levels));
        let form = format!(
            "--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n\
             --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\ny\r\n--b--\r\n"
        );
        let request = Request::post("/v1/send").header("content-type", "multipart/form-data; boundary=b");
        let answer = echo().send(request.body(Full::from(form)).expect("request")).await;
        assert_eq!(violation(&answer).2, "nested too deeply", "{levels}");
    }
}

#[tokio::test]
async fn a_oneof_is_set_by_one_of_path_query_and_body() {
    let f = echo();
    for (method, path, body, field) in [
        ("GET", "/v1/7/by?name=foo", "", "name"),
        ("GET", "/v1/7/by?sub.s=foo", "", "sub.s"),
        ("GET", "/v1/get?name=a&id=1", "", "id"),
        ("GET", "/v1/get?n.name=a&n.sub.s=1", "", "n.sub.s"),
        ("PUT", "/v1/sub?name=foo", r#"{"s":"x"}"#, "name"),
        ("POST", "/v1/all/7", r#"{"name":"x"}"#, "name"),
    ] {
        let (status, named, problem) = violation(&f.call(method, path, body).await);
        assert_eq!((status, named.as_str()), (400, field), "{path}: {problem}");
        assert!(problem.contains("oneof"), "{path}: {problem}");
    }
    assert_eq!(f.get("/v1/7/by?n.name=a").await.json(), json!({ "id": 7, "n": { "name": "a" } }));
    assert_eq!(f.call("PUT", "/v1/sub?n.name=a", r#"{"id":1}"#).await.status, 200);
}

#[test]
fn what_the_path_excludes_is_not_among_the_parameters_of_the_document() {
    let pool = DescriptorPool::decode(compile_text(PROTO).as_slice()).expect("descriptors");
    let document = document(&pool, &Info::default(), |_, _| {});
    let names = |path: &str| -> Vec<String> {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().expect("parameters");
        parameters.iter().filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
    };
    assert!(names("/v1/get").contains(&"name".to_owned()));
    assert!(names("/v1/{id}/by").contains(&"s".to_owned()));
    assert!(!names("/v1/{id}/by").contains(&"name".to_owned()));
}

#[tokio::test]
async fn a_web_sockets_path_and_query_don_t_set_one_oneof_twice() {
    let upstream = support::websocket::echo();
    let gateway = Gateway::builder(&compile_text(PROTO)).build(upstream).expect("gateway");
    let server = Server::start(gateway).await;
    let request = support::websocket::request("/v1/chat/7?name=a", &[("sec-websocket-protocol", "rialto.json.v1")]);
    let (status, field, _) = violation(&server.refused(&request).await);
    assert_eq!((status, field.as_str()), (400, "name"));
}

#[tokio::test]
async fn a_field_and_its_parts_are_the_same_field() {
    let f = echo();
    for (path, field) in [
        ("/v1/get?ts=2020-01-01T00:00:00Z&ts.seconds=5", "ts.seconds"),
        ("/v1/get?ts.seconds=5&ts=2020-01-01T00:00:00Z", "ts"),
        ("/v1/get?w=a&w.value=b", "w.value"),
        ("/v1/get?m[1]=a&m[1e0]=b", "m[1e0]"),
        ("/v1/get?n.m[1]=a&n.m[1]=b", "n.m[1]"),
        ("/v1/at/2020-01-01T00:00:00Z?ts.seconds=5", "ts.seconds"),
        ("/v1/since/5?ts=2020-01-01T00:00:00Z", "ts"),
        ("/v1/since/5?ts.seconds=6", "ts.seconds"),
    ] {
        let (status, named, problem) = violation(&f.get(path).await);
        assert_eq!((status, named.as_str()), (400, field), "{path}: {problem}");
    }
    let many = f.get("/v1/get?many=a&many=b&m[1]=a&m[2]=b&ts.seconds=1&ts.nanos=2").await;
    assert_eq!(many.status, 200, "{}", many.text());
    assert_eq!(f.get("/v1/since/5?ts.nanos=6").await.status, 200);
}

#[tokio::test]
async fn a_mask_that_is_given_in_parts_is_given() {
    let f = echo();
    for query in ["updateMask=s", "updateMask.paths=s", "update_mask.paths=s"] {
        let answer = f.call("PATCH", &format!("/v1/node?{query}"), r#"{"s":"1","t":"2"}"#).await;
        assert_eq!((answer.status, &answer.json()["updateMask"]), (200, &json!("s")), "{query}");
    }
}

#[tokio::test]
async fn a_mask_is_no_larger_than_a_request() {
    let f = echo_with(|b| b.max_request_bytes(4 << 10));
    // A body of 2 KB, whose mask would have 20 KB.
    let mut leaves = String::new();
    for _ in 0..14 {
        leaves = format!(
            r#"{{"s":"","t":"","many":[],"m":{{}},"w":"","n":{}}}"#,
            if leaves.is_empty() { "null" } else { &leaves }
        );
    }
    let body = format!("{}{leaves}{}", r#"{"n":"#.repeat(80), "}".repeat(80));
    assert!(body.len() < 4 << 10, "{}", body.len());
    let answer = f.call("PATCH", "/v1/node", &body).await;
    assert_eq!((answer.status, &answer.json()["error"]["reason"]), (413, &json!("PAYLOAD_TOO_LARGE")));
}

#[tokio::test]
async fn a_list_of_bodies_is_json() {
    let f = echo();
    let files =
        json!([{ "contentType": "text/plain", "data": "YQ==" }, { "contentType": "image/png", "data": "Yg==" }]);
    let answer = f.call("PUT", "/v1/files", &files.to_string()).await;
    assert_eq!((answer.status, answer.header("content-type"), answer.json()), (200, "application/json", files));
}

#[test]
fn a_path_sets_a_field_once_and_one_member_of_a_oneof() {
    let build = |rule: &str| {
        let text = PROTO.replace(r#"get: "/v1/get""#, rule);
        Gateway::builder(&compile_text(&text)).build(()).map(drop).map_err(|error| error.to_string())
    };
    for (rule, problem) in [
        (r#"get: "/v1/both/{id}/{name}""#, "path fields \"id\" and \"name\" are in one oneof"),
        (r#"get: "/v1/both/{id}/{sub.s}""#, "path fields \"id\" and \"sub.s\" are in one oneof"),
        (r#"put: "/v1/both/{id}" body: "sub""#, "path field \"id\" and body \"sub\" are in one oneof"),
        (r#"get: "/v1/both/{ts}/{ts.seconds}""#, "path field \"ts.seconds\" appears twice"),
        (r#"get: "/v1/both/{ts.seconds}/{ts}""#, "path field \"ts\" appears twice"),
        (r#"get: "/v1/both/{many.s}""#, "field \"many.s\" for the path is not within a single message"),
    ] {
        let error = build(rule).expect_err(rule);
        assert!(error.starts_with("t.S.Get (") && error.ends_with(problem), "{error}");
    }
    assert_eq!(build(r#"get: "/v1/both/{id}/{n.name}""#), Ok(()));
}
