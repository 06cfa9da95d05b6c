//! What is refused at start.

mod support;

use rialto_gateway::Gateway;
use support::compile_text;

/// Builds a gateway for methods given as `rpc` lines.
fn build(methods: &str) -> Result<(), String> {
    let text = format!(
        r#"syntax = "proto3"; package t;
        import "google/api/annotations.proto"; import "google/api/httpbody.proto";
        import "rialto/gateway/v1/event_stream.proto"; import "rialto/gateway/v1/file_upload.proto";
        import "rialto/gateway/v1/web_socket.proto";
        message File {{ string name = 1; google.api.HttpBody file = 2; Info info = 3; int32 size = 4; }}
        message Info {{ string name = 1; }}
        message In {{ string a = 1; repeated string many = 2; In inner = 3; map<string, string> map = 4; }}
        message Failing {{ oneof one {{ string text = 1; string error = 2; }} }}
        message Ending {{ oneof one {{ string text = 1; string over = 2 [json_name = "end"]; }} }}
        message Twice {{ oneof one {{ string error = 1; }} oneof two {{ string end = 2; }} }}
        service S {{ {methods} }}"#
    );
    Gateway::builder(&compile_text(&text)).build(()).map(drop).map_err(|e| e.to_string())
}

fn get(name: &str, rule: &str) -> String {
    format!("rpc {name}(In) returns (In) {{ option (google.api.http) = {{ {rule} }}; }}")
}

#[test]
fn a_route_that_repeats_another_names_both() {
    let twice = [get("A", r#"get: "/x/{a}""#), get("B", r#"get: "/x/{inner.a=*}""#)].concat();
    assert_eq!(build(&twice), Err("t.S.B (GET /x/{inner.a=*}) has the same route as t.S.A (GET /x/{a})".to_owned()));
    let apart = [
        get("A", r#"get: "/x/{a}""#),
        get("B", r#"post: "/x/{a}""#),
        get("C", r#"get: "/x/{a}:c""#),
        get("D", r#"get: "/x/{a=**}""#),
    ];
    assert_eq!(build(&apart.concat()), Ok(()));
}

#[test]
fn rules_that_do_not_fit_the_messages_are_refused() {
    for (rule, error) in [
        (r#"get: "/x/{nope}""#, "t.S.A (GET /x/{nope}): no field \"nope\" for the path"),
        (r#"get: "/x/{a.b}""#, "t.S.A (GET /x/{a.b}): no field \"a.b\" for the path"),
        (r#"get: "/x/{many}""#, "t.S.A (GET /x/{many}): repeated field \"many\" in the path"),
        (r#"get: "/x/{map}""#, "t.S.A (GET /x/{map}): repeated field \"map\" in the path"),
        (r#"get: "/x/{inner}""#, "t.S.A (GET /x/{inner}): field \"inner\" in the path is a message"),
        (r#"get: "/x/{a}/{a}""#, "t.S.A (GET /x/{a}/{a}): path field \"a\" appears twice"),
        (r#"post: "/x" body: "nope""#, "t.S.A (POST /x): body: no field \"nope\""),
        (r#"post: "/x/{a}" body: "a""#, "t.S.A (POST /x/{a}): field \"a\" is in both path and body"),
        (r#"get: "/x" response_body: "nope""#, "t.S.A (GET /x): response_body: no field \"nope\""),
        (r#"get: "x""#, "t.S.A (GET x): must begin with '/'"),
        (r#"body: "*""#, "t.S.A: the rule has no pattern"),
    ] {
        assert_eq!(build(&get("A", rule)), Err(error.to_owned()));
    }
}

#[test]
fn client_streams_need_a_body() {
    let rpc = |rule: &str| format!(r#"rpc A(stream In) returns (In) {{ option (google.api.http) = {{ {rule} }}; }}"#);
    assert_eq!(build(&rpc(r#"post: "/x" body: "*""#)), Ok(()));
    assert_eq!(build(&rpc(r#"post: "/x" body: "inner""#)), Ok(()));
    let error = "t.S.A (POST /x): a client-streaming method needs a body";
    assert_eq!(build(&rpc(r#"post: "/x""#)), Err(error.to_owned()));
    assert_eq!(build("rpc A(stream In) returns (stream In);"), Ok(()));
}

#[test]
fn file_upload_options_are_checked() {
    let rpc = |input: &str, rule: &str, field: &str| {
        let rule = format!(r#"option (google.api.http) = {{ post: "{rule} }};"#);
        let option = format!(r#"option (rialto.gateway.v1.file_upload) = {{ filename_field: "{field}" }};"#);
        build(&format!("rpc A({input}) returns (In) {{ {rule} {option} }}"))
    };
    assert_eq!(rpc("stream File", r#"/x" body: "file""#, "info.name"), Ok(()));
    assert_eq!(rpc("stream File", r#"/x" body: "file""#, ""), Ok(()));
    for (input, rule, field, error) in [
        ("File", r#"/x" body: "file""#, "name", ": file_upload is for client-streaming methods"),
        ("stream File", r#"/x" body: "file""#, "nope", ": file_upload: \"nope\" is not a string field"),
        ("stream File", r#"/x" body: "file""#, "size", ": file_upload: \"size\" is not a string field"),
        (
            "stream File",
            r#"/x" body: "info""#,
            "name",
            " (POST /x): file_upload needs a body that is a google.api.HttpBody",
        ),
        (
            "stream File",
            r#"/x/{name}" body: "file""#,
            "name",
            " (POST /x/{name}): file_upload: \"name\" is set by the path or the body",
        ),
        (
            "stream File",
            r#"/x" body: "file""#,
            "file.content_type",
            " (POST /x): file_upload: \"file.content_type\" is set by the path or the body",
        ),
    ] {
        assert_eq!(rpc(input, rule, field), Err(format!("t.S.A{error}")));
    }
}

#[test]
fn event_stream_options_are_checked() {
    let rpc = |returns: &str, option: &str| {
        format!(
            r#"rpc A(In) returns ({returns}) {{ option (google.api.http) = {{ get: "/x" }};
            option (rialto.gateway.v1.event_stream) = {{ {option} }}; }}"#
        )
    };
    assert_eq!(build(&rpc("stream In", r#"id_field: "inner.a" resume_field: "a""#)), Ok(()));
    for (returns, option) in
        [("In", r#"id_field: "a""#), ("stream In", r#"id_field: "inner""#), ("stream In", r#"resume_field: "nope""#)]
    {
        assert!(build(&rpc(returns, option)).is_err(), "{option}");
    }
}

#[test]
fn no_event_of_a_declared_stream_has_the_name_of_its_end() {
    let rpc = |returns: &str, option: &str| {
        format!(r#"rpc A(In) returns (stream {returns}) {{ option (google.api.http) = {{ get: "/x" }}; {option} }}"#)
    };
    let option = "option (rialto.gateway.v1.event_stream) = {};";
    for (returns, member) in [("Failing", "error"), ("Ending", "end")] {
        let error = format!("t.S.A: event_stream: oneof member {member:?} would name events as the end of a stream");
        assert_eq!(build(&rpc(returns, option)), Err(error));
        // Whose methods nobody wrote for events may call their members what they like.
        assert_eq!(build(&rpc(returns, "")), Ok(()));
    }
    // Two oneofs name no events.
    assert_eq!(build(&rpc("Twice", option)), Ok(()));
}

#[test]
fn web_socket_options_are_checked() {
    for (types, path, error) in [
        ("In) returns (In)", "/x", "t.S.A (WebSocket /x): web_socket is for streaming methods"),
        ("stream In) returns (stream In)", "", "t.S.A (WebSocket ): must begin with '/'"),
        ("stream In) returns (stream In)", "/x/{nope}", "t.S.A (WebSocket /x/{nope}): no field \"nope\" for the path"),
        ("stream In) returns (stream In)", "/{many}", "t.S.A (WebSocket /{many}): repeated field \"many\" in the path"),
        ("In) returns (stream In)", "/{a}/{a}", "t.S.A (WebSocket /{a}/{a}): path field \"a\" appears twice"),
    ] {
        assert_eq!(build(&web_socket("A", types, path)), Err(error.to_owned()));
    }
    let types = "stream In) returns (stream In)";
    let twice = [web_socket("A", types, "/x/{a}"), web_socket("B", types, "/x/{inner.a=*}")].concat();
    let error = "t.S.B (WebSocket /x/{inner.a=*}) has the same route as t.S.A (WebSocket /x/{a})";
    assert_eq!(build(&twice), Err(error.to_owned()));
    // A route of the same path is another matter.
    let both = [web_socket("A", types, "/x/{a}"), get("B", r#"get: "/x/{a}""#)].concat();
    assert_eq!(build(&both), Ok(()));
}

fn web_socket(name: &str, types: &str, path: &str) -> String {
    format!(r#"rpc {name}({types} {{ option (rialto.gateway.v1.web_socket) = {{ path: "{path}" }}; }}"#)
}

#[test]
fn configuration_is_checked() {
    let set = support::compile(&["library.proto"]);
    let builder = || Gateway::builder(&set);
    assert!(builder().services(["test.library.Nope"]).build(()).is_err());
    assert!(builder().alias("api", "/v1").build(()).is_err());
    assert!(builder().alias("/api/", "/v1").build(()).is_err());
    assert!(builder().request_header(http::header::CONNECTION).build(()).is_err());
    assert!(builder().response_header(http::header::CONTENT_LENGTH).build(()).is_err());
    assert!(Gateway::builder(b"\xff").build(()).is_err());
    assert!(builder().build(()).is_ok());
}
