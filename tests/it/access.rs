//! Every method of the contract × every built-in role and nobody, over gRPC and REST, against the reviewed table
//! `access.txt`; and where a method names an object, the one it belongs to and somebody else with the same permissions.
//!
//! Only the gate's outcome counts: what is let through may still be refused for what it says.

use std::collections::BTreeMap;

use diesel_async::SimpleAsyncConnection;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, Value as Field};
use reqwest::Method;
use rialto::domains::auth::Keys;
use rialto::kernel::policy::{BUILT_IN, RULES, Rule};
use rialto::kernel::rng::Rng;
use rialto::proto;
use serde_json::{Map, Value, json};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::harness::{Node, User, World};

const TABLE: &str = include_str!("access.txt");

/// Messages as they are on the wire.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// `+` let through, `-` refused, `0` told that there is no such object.
fn outcome(code: Code, reason: &str) -> char {
    match (code, reason) {
        (Code::Unauthenticated, "UNAUTHORIZED") | (Code::PermissionDenied, "INSUFFICIENT_PERMISSIONS") => '-',
        (Code::NotFound, "RESOURCE_NOT_FOUND") => '0',
        (Code::Unauthenticated | Code::Unimplemented | Code::ResourceExhausted, _) => panic!("{code:?} {reason}"),
        _ => '+',
    }
}

async fn over_grpc(node: &Node, rule: &Rule, token: Option<&str>, message: Vec<u8>) -> char {
    let mut request = Request::new(tokio_stream::once(message));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(node.channel());
    client.ready().await.unwrap();
    match client.streaming(request, rule.path.parse().unwrap(), Raw).await {
        Ok(_) => '+',
        Err(status) => {
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            outcome(status.code(), &reason)
        }
    }
}

async fn over_rest(node: &Node, (verb, path): &(Method, String), token: Option<&str>, body: &Value) -> char {
    let body = (*verb != Method::GET && *verb != Method::DELETE).then(|| body.clone());
    let mut request = node.http().request(verb.clone(), node.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    if status < 400 {
        // Not read: an open stream has no end.
        return '+';
    }
    let body: Value = response.json().await.unwrap();
    let reason = body["error"]["reason"].as_str().unwrap_or_default();
    let code = match status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 415 | 429 => panic!("{verb} {path}: {body}"),
        _ => Code::InvalidArgument,
    };
    outcome(code, reason)
}

/// The HTTP ways to each method.
async fn routes(node: &Node) -> BTreeMap<String, Vec<(Method, String)>> {
    let document = node.rest(Method::GET, "/openapi.json", None, None).await.ok();
    let mut routes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (verb, operation) in operations.as_object().unwrap() {
            if let Some(method) = operation["x-grpc-method"].as_str() {
                let verb = Method::from_bytes(verb.to_uppercase().as_bytes()).unwrap();
                routes.entry(format!("/{method}")).or_default().push((verb, path.clone()));
            }
        }
    }
    routes
}

/// The path with its variables replaced.
fn fill(path: &str, variable: impl Fn(&str) -> String) -> String {
    let part = |part: &str| match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        Some(name) => variable(name),
        None => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Accounts that nobody has used yet: what a call does to its caller can't change the next one's outcome.
struct Accounts<'a> {
    world: &'a World,
    template: User,
    keys: Keys,
}

impl Accounts<'_> {
    /// The token of a new account of this role: a copy of the template and of its session.
    async fn token(&self, role: &str) -> String {
        let now = self.world.clock.now();
        let (account, session) = (Rng.id(now).unwrap(), Rng.id(now).unwrap());
        let copy = format!(
            "INSERT INTO accounts (id, email, display_name, password_hash, role, state, created_at, updated_at) \
             SELECT '{account}', '{account}@example.com', display_name, password_hash, '{role}', state, created_at, updated_at \
             FROM accounts WHERE id = '{template}'; \
             INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object( \
                 'id', '{session}', 'account_id', '{account}'))).* FROM sessions s WHERE account_id = '{template}'",
            template = self.template.id,
        );
        self.world.database().await.batch_execute(&copy).await.unwrap();
        self.keys.issue(account, session, 0, now).unwrap().0
    }
}

/// What the table says for a method: a mark for nobody and each built-in role, and for the two kinds of callers of an
/// object, as far as the method names one.
async fn row(node: &Node, accounts: &Accounts<'_>, rule: &Rule, routes: &[(Method, String)]) -> Vec<char> {
    let mut marks = Vec::new();
    for role in [None].into_iter().chain(BUILT_IN.map(|(_, name)| Some(name))) {
        let token = match role {
            Some(role) => Some(accounts.token(role).await),
            None => None,
        };
        // No message begins with this byte: the gate decides before anything is decoded, and nothing follows.
        let mark = over_grpc(node, rule, token.as_deref(), vec![0xff]).await;
        for (verb, path) in routes {
            let token = match role {
                Some(role) => Some(accounts.token(role).await),
                None => None,
            };
            // No id, and too long for a handle.
            let fill_with = |name: &str| if name == "seq" { "1".into() } else { "x".repeat(100) };
            let route = (verb.clone(), fill(path, fill_with));
            let over_rest = over_rest(node, &route, token.as_deref(), &json!({})).await;
            assert_eq!(over_rest, mark, "{verb} {path} for {role:?}, which gRPC answers otherwise");
        }
        marks.push(mark);
    }
    marks
}

/// The required fields that are texts, by their names in the contract, and the number of a message.
fn required(pool: &DescriptorPool, rule: &Rule, value: impl Fn(&str) -> String) -> BTreeMap<String, String> {
    let rules = pool.get_extension_by_name("buf.validate.field").unwrap();
    let mut fields = BTreeMap::new();
    let is_optional = |field: &FieldDescriptor| field.containing_oneof().is_some_and(|oneof| oneof.is_synthetic());
    let is_string = |field: &FieldDescriptor| field.kind() == Kind::String && !field.is_list() && !is_optional(field);
    for field in input(pool, rule).fields().filter(is_string) {
        let options = field.options();
        let rules = options.get_extension(&rules);
        let string =
            rules.as_message().and_then(|rules| rules.get_field_by_name("string").map(|value| value.into_owned()));
        let string = string.as_ref().and_then(Field::as_message);
        let asks = |rule: &str| string.is_some_and(|string| string.has_field_by_name(rule));
        if asks("uuid") || asks("min_len") {
            fields.insert(field.name().to_owned(), value(field.name()));
        }
    }
    if input(pool, rule).get_field_by_name("seq").is_some() {
        fields.insert("seq".into(), value("seq"));
    }
    fields
}

/// The required fields that are messages.
fn required_messages(pool: &DescriptorPool, rule: &Rule) -> Vec<FieldDescriptor> {
    let rules = pool.get_extension_by_name("buf.validate.field").unwrap();
    let asks = |field: &FieldDescriptor| {
        let options = field.options();
        let rules = options.get_extension(&rules);
        let required = rules.as_message().and_then(|rules| rules.get_field_by_name("required")?.as_bool());
        required == Some(true)
    };
    input(pool, rule).fields().filter(asks).collect()
}

fn input(pool: &DescriptorPool, rule: &Rule) -> prost_reflect::MessageDescriptor {
    let (service, method) = rule.path[1..].split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap();
    service.methods().find(|found| found.name() == method).unwrap().input()
}

fn is_time(field: &FieldDescriptor) -> bool {
    field.kind().as_message().is_some_and(|message| message.full_name() == "google.protobuf.Timestamp")
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
}

/// Somebody to whom objects belong, somebody else with the same roles, and a third.
struct People {
    owner: User,
    other: User,
    third: User,
}

impl People {
    async fn new(world: &World, node: &Node) -> Self {
        let admin = world.administrator(node, "admin").await;
        let people =
            Self { owner: node.user("owner").await, other: node.user("other").await, third: node.user("third").await };
        let own = |permission: &str| json!({ "permission": permission, "condition": "CONDITION_OWN" });
        let grants = json!([{ "permission": "roles:create" }, own("roles:*")]);
        let role = admin.post(node, "/v1/roles", json!({ "name": "keeper", "grants": grants })).await.ok();
        for person in [&people.owner, &people.other] {
            let path = format!("/v1/accounts/{}/roles", person.id);
            admin.post(node, &path, json!({ "role_id": role["id"] })).await.ok();
        }
        people
    }

    /// A new object of the owner, by the name of the field that names it.
    async fn object(&self, node: &Node, is_role: bool) -> (&'static str, String) {
        if !is_role {
            let conversation = self.owner.conversation(node, &[&self.third]).await;
            self.owner.send(node, &conversation, "a message").await;
            return ("conversation_id", conversation);
        }
        let name = Uuid::from_bytes(Rng.bytes().unwrap()).to_string();
        let role = self.owner.post(node, "/v1/roles", json!({ "name": name })).await.ok();
        let path = format!("/v1/accounts/{}/roles", self.third.id);
        self.owner.post(node, &path, json!({ "role_id": role["id"] })).await.ok();
        ("role_id", role["id"].as_str().unwrap().to_owned())
    }

    /// What owner and other are told of an object; nothing where the method names none.
    async fn row(&self, node: &Node, pool: &DescriptorPool, rule: &Rule, routes: &[(Method, String)]) -> Vec<char> {
        let names_one = input(pool, rule).fields().any(|field| ["conversation_id", "role_id"].contains(&field.name()));
        if !names_one {
            return Vec::new();
        }
        let mut marks = Vec::new();
        for person in [&self.owner, &self.other] {
            let fields = self.fields(node, pool, rule).await;
            let mut message = DynamicMessage::new(input(pool, rule));
            for (name, value) in &fields {
                let value = if name == "seq" { Field::I64(1) } else { Field::String(value.clone()) };
                message.set_field_by_name(name, value);
            }
            let messages = required_messages(pool, rule);
            for field in &messages {
                let empty = DynamicMessage::new(field.kind().as_message().unwrap().clone());
                message.set_field(field, Field::Message(empty));
            }
            let mark = over_grpc(node, rule, Some(&person.token), message.encode_to_vec()).await;
            for (verb, path) in routes {
                let fields = self.fields(node, pool, rule).await;
                let by_json_name = |name: &str| {
                    let found = fields.iter().find(|(field, _)| camel(field) == name);
                    found.map_or_else(
                        || panic!("{path} has a variable that is not required"),
                        |(_, value)| value.clone(),
                    )
                };
                let in_body = fields.iter().filter(|(field, _)| !path.contains(&format!("{{{}}}", camel(field))));
                let mut body: Map<_, _> = in_body.map(|(field, value)| (field.clone(), json!(value))).collect();
                // Others are the whole body.
                let times = messages.iter().filter(|field| is_time(field));
                body.extend(times.map(|field| (field.name().to_owned(), json!("1970-01-01T00:00:00Z"))));
                let mut filled = fill(path, by_json_name);
                if *verb == Method::GET && !path.contains('{') {
                    let query = fields.iter().map(|(field, value)| format!("{field}={value}"));
                    filled = format!("{filled}?{}", query.collect::<Vec<_>>().join("&"));
                }
                let route = (verb.clone(), filled);
                let over_rest = over_rest(node, &route, Some(&person.token), &Value::Object(body)).await;
                assert_eq!(over_rest, mark, "{verb} {path} for {}, which gRPC answers otherwise", person.email);
            }
            marks.push(mark);
        }
        marks
    }

    async fn fields(&self, node: &Node, pool: &DescriptorPool, rule: &Rule) -> BTreeMap<String, String> {
        let is_role = input(pool, rule).get_field_by_name("role_id").is_some();
        let (field, object) = self.object(node, is_role).await;
        required(pool, rule, |name| match name {
            name if name == field => object.clone(),
            "account_id" => self.third.id.clone(),
            // The message that was sent.
            "seq" => "1".into(),
            "emoji" => "👍".into(),
            _ => "x".into(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_lets_in_whom_the_reviewed_table_says_and_nobody_else() {
    let world = World::new().await;
    let node = world.node().await;
    let keys = Keys::new(&world.config.auth).unwrap();
    let accounts = Accounts { world: &world, template: node.user("template").await, keys };
    let people = People::new(&world, &node).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let routes = routes(&node).await;

    let mut table: String =
        TABLE.lines().take_while(|line| line.starts_with('#')).map(|line| line.to_owned() + "\n").collect();
    for rule in RULES {
        let routes = routes.get(rule.path).map_or(&[][..], Vec::as_slice);
        let mut marks = row(&node, &accounts, rule, routes).await;
        marks.extend(people.row(&node, &pool, rule, routes).await);
        let marks: Vec<_> = marks.iter().map(|mark| format!("{mark:10}")).collect();
        table += &(format!("{:70} {}", &rule.path[1..], marks.concat()).trim_end().to_owned() + "\n");
    }
    let wrong: Vec<_> = table.lines().filter(|line| !TABLE.lines().any(|reviewed| reviewed == *line)).collect();
    let gone: Vec<_> = TABLE.lines().filter(|line| !table.lines().any(|real| real == *line)).collect();
    assert!(
        wrong.is_empty() && gone.is_empty(),
        "tests/it/access.txt is not what the server does. If it is meant so, review these rows and put them there:\n{}\n\
         in place of these:\n{}",
        wrong.join("\n"),
        gone.join("\n")
    );
    assert_eq!(table, TABLE, "the rows of tests/it/access.txt are not in order");
}
