//! Routes resolved against the schema: everything that can be wrong with an annotation is found here, at start.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Method, Uri};
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};

use super::router::Router;
use super::rule::{EventStream, Options, Rule};
use super::template::Template;
use crate::builder::BuildError;
use crate::codec::Bound;
use crate::codec::MessageId;
use crate::codec::schema::{Card, Field, Kind, PathError, Schema, Shape};
use crate::event;
use crate::http_body;

/// A method.
pub(crate) struct Rpc {
    /// `/package.Service/Method`.
    pub uri: Uri,
    pub input: MessageId,
    pub output: MessageId,
    pub client_streaming: bool,
    pub server_streaming: bool,
    /// `idempotency_level = NO_SIDE_EFFECTS`.
    pub no_side_effects: bool,
    /// The method carries the `event_stream` option.
    pub declared_events: bool,
    pub id_field: Option<Vec<u16>>,
    pub resume_field: Option<Vec<u16>>,
    /// The request field that takes the name of an uploaded file.
    pub filename_field: Option<FilenameField>,
    /// The response has exactly one oneof, whose case names events. If it could name them as the end of a stream, it
    /// names none.
    pub cases: bool,
}

impl Rpc {
    /// In one direction or both.
    pub fn is_streaming(&self) -> bool {
        self.client_streaming || self.server_streaming
    }
}

pub(crate) struct FilenameField {
    pub field: Vec<u16>,
    /// As declared, for errors.
    pub name: Box<str>,
}

pub(crate) enum BodyRule {
    None,
    All,
    Field(u16),
}

/// A template variable, resolved.
pub(crate) struct Capture {
    pub field: Vec<u16>,
    pub name: Box<str>,
    pub start: usize,
    /// `None`: to the end of the path.
    pub end: Option<usize>,
    pub multi: bool,
}

pub(crate) struct Route {
    pub rpc: Arc<Rpc>,
    pub captures: Vec<Capture>,
    pub body: BodyRule,
    /// Number of the field that the body is, if it is one.
    pub body_field: Option<u32>,
    /// The body is a `google.api.HttpBody`.
    pub raw_request: bool,
    pub response_body: Option<u16>,
    /// The answer is a `google.api.HttpBody`.
    pub raw_response: bool,
    /// The `update_mask` that a PATCH fills from its body when nobody gives one.
    pub mask: Option<u16>,
    /// What the path sets: a body must not.
    pub path_bound: Bound,
    /// What path and body field set: a query parameter must not.
    pub query_bound: Bound,
}

pub(crate) struct Plan {
    pub router: Router,
    pub routes: Vec<Route>,
    /// WebSockets; their paths may be those of routes.
    pub socket_router: Router,
    pub sockets: Vec<Route>,
    /// Every method, by its path, with or without routes.
    pub rpcs: HashMap<Box<str>, Arc<Rpc>>,
}

/// All routes of the chosen services (all services if `chosen` is `None`).
pub(crate) fn plan(pool: &DescriptorPool, schema: &Schema, chosen: Option<&[String]>) -> Result<Plan, BuildError> {
    let options = Options::new(pool);
    let mut planner = Planner::new(schema);
    let mut sockets = Planner::new(schema);
    let mut rpcs = HashMap::new();
    for service in services(pool, chosen)? {
        for method in service.methods() {
            let name = method.full_name();
            let rules = options.rules(&method).map_err(|problem| BuildError::rule(name, problem))?;
            let mut rpc = planner.rpc(&method, options.event_stream(&method))?;
            rpc.filename_field = planner.filename_field(&rpc, options.filename_field(&method), name)?;
            let rpc = Arc::new(rpc);
            for rule in &rules {
                let name = format!("{name} ({})", rule.describe());
                planner.add(&rpc, rule, &name)?;
                planner.routes.last().map_or(Ok(()), |route| check_client_stream(&rpc, route, &name))?;
            }
            if let Some(rule) = options.web_socket(&method) {
                let name = format!("{name} (WebSocket {})", rule.path);
                if !rpc.client_streaming && !rpc.server_streaming {
                    return Err(BuildError::rule(&name, "web_socket is for streaming methods"));
                }
                sockets.add(&rpc, &rule, &name)?;
            }
            rpcs.insert(rpc.uri.path().into(), rpc);
        }
    }
    let (socket_router, sockets) = (sockets.router, sockets.routes);
    Ok(Plan { router: planner.router, routes: planner.routes, socket_router, sockets, rpcs })
}

pub(crate) fn services(pool: &DescriptorPool, chosen: Option<&[String]>) -> Result<Vec<ServiceDescriptor>, BuildError> {
    match chosen {
        None => Ok(pool.services().collect()),
        Some(names) => names
            .iter()
            .map(|name| pool.get_service_by_name(name).ok_or_else(|| BuildError::UnknownService(name.clone())))
            .collect(),
    }
}

struct Planner<'s> {
    schema: &'s Schema,
    router: Router,
    routes: Vec<Route>,
    /// By route, for error messages.
    names: Vec<String>,
}

impl<'s> Planner<'s> {
    fn new(schema: &'s Schema) -> Self {
        Self { schema, router: Router::default(), routes: Vec::new(), names: Vec::new() }
    }

    fn rpc(&self, method: &MethodDescriptor, events: Option<EventStream>) -> Result<Rpc, BuildError> {
        let name = method.full_name();
        let id = |full_name: &str| {
            self.schema.id(full_name).ok_or_else(|| BuildError::rule(name, "its request or response type is missing"))
        };
        let (input, output) = (id(method.input().full_name())?, id(method.output().full_name())?);
        let declared = events.is_some();
        let events = events.unwrap_or_default();
        if declared && !method.is_server_streaming() {
            return Err(BuildError::rule(name, "event_stream is for server-streaming methods"));
        }
        let message = self.schema.message(output);
        let ambiguous = event::ambiguous(message).filter(|_| message.oneofs.len() == 1);
        if let (true, Some(f)) = (declared, ambiguous) {
            let problem =
                format!("event_stream: oneof member {:?} would name events as the end of a stream", f.json_name);
            return Err(BuildError::rule(name, problem));
        }
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        Ok(Rpc {
            uri: path.parse().map_err(|_| BuildError::rule(name, "its name is not a path"))?,
            client_streaming: method.is_client_streaming(),
            server_streaming: method.is_server_streaming(),
            no_side_effects: no_side_effects(method),
            declared_events: declared,
            id_field: self.event_field(name, output, &events.id_field)?,
            resume_field: self.event_field(name, input, &events.resume_field)?,
            filename_field: None,
            cases: message.oneofs.len() == 1 && ambiguous.is_none(),
            input,
            output,
        })
    }

    fn event_field(&self, method: &str, root: MessageId, path: &str) -> Result<Option<Vec<u16>>, BuildError> {
        if path.is_empty() {
            return Ok(None);
        }
        let found = self.schema.resolve(root, path).ok();
        let usable = found
            .as_deref()
            .and_then(|p| self.schema.field(root, p))
            .is_some_and(|f| f.card == Card::Singular && !matches!(f.kind, Kind::Message(_)));
        if usable {
            Ok(found)
        } else {
            Err(BuildError::rule(method, format!("event_stream: {path:?} is not a scalar field")))
        }
    }

    fn filename_field(
        &self,
        rpc: &Rpc,
        declared: Option<String>,
        method: &str,
    ) -> Result<Option<FilenameField>, BuildError> {
        let Some(path) = declared else { return Ok(None) };
        if !rpc.client_streaming {
            return Err(BuildError::rule(method, "file_upload is for client-streaming methods"));
        }
        if path.is_empty() {
            return Ok(None);
        }
        let found = self.schema.resolve(rpc.input, &path).ok();
        let field = found.as_deref().and_then(|p| self.schema.field(rpc.input, p));
        let usable = field.is_some_and(|f| f.card == Card::Singular && matches!(f.kind, Kind::String));
        match found.filter(|_| usable) {
            Some(field) => Ok(Some(FilenameField { field, name: path.into() })),
            None => Err(BuildError::rule(method, format!("file_upload: {path:?} is not a string field"))),
        }
    }

    fn add(&mut self, rpc: &Arc<Rpc>, rule: &Rule, name: &str) -> Result<(), BuildError> {
        let template = Template::parse(&rule.path).map_err(|problem| BuildError::rule(name, problem))?;
        let mut path_bound = Bound::default();
        let mut captures: Vec<Capture> = Vec::new();
        for variable in &template.variables {
            let field = self.path_field(rpc.input, &variable.field, name)?;
            if path_bound.touches(&field) {
                return Err(BuildError::rule(name, format!("path field {:?} appears twice", variable.field)));
            }
            if let Some(rival) = self.rival(rpc.input, &field, &captures) {
                let problem = format!("path fields {rival:?} and {:?} are in one oneof", variable.field);
                return Err(BuildError::rule(name, problem));
            }
            path_bound.insert(&field);
            let open = template.segments.get(variable.end - 1) == Some(&super::template::Segment::Multi);
            captures.push(Capture {
                field,
                name: variable.field.as_str().into(),
                start: variable.start,
                end: if open { None } else { Some(variable.end) },
                multi: template.is_multi(variable),
            });
        }
        let mut query_bound = Bound::default();
        captures.iter().for_each(|c| query_bound.insert(&c.field));
        let body = self.body(rpc, rule, name, &captures)?;
        if let BodyRule::Field(f) = body {
            query_bound.close(f);
        }
        let body_field = match body {
            BodyRule::Field(index) => self.schema.field(rpc.input, &[index]).map(|f| f.number),
            _ => None,
        };
        let raw_request = match body {
            BodyRule::None => false,
            BodyRule::All => http_body::is_raw(self.schema, rpc.input, None),
            BodyRule::Field(index) => http_body::is_raw(self.schema, rpc.input, Some(index)),
        };
        let mask = self.mask(rpc, rule, &body, &path_bound);
        let response_body = match rule.response_body.as_str() {
            "" => None,
            field => Some(self.top_level(rpc.output, field, "response_body", name)?),
        };
        let raw_response = http_body::is_raw(self.schema, rpc.output, response_body);
        let route = Route {
            rpc: rpc.clone(),
            captures,
            body,
            body_field,
            raw_request,
            response_body,
            raw_response,
            mask,
            path_bound,
            query_bound,
        };
        let index = self.routes.len();
        if let Err(first) = self.router.insert(rule.method.as_ref(), &template, index) {
            let first = self.names.get(first).cloned().unwrap_or_default();
            return Err(BuildError::Duplicate { first, second: name.to_owned() });
        }
        self.routes.push(route);
        self.names.push(name.to_owned());
        Ok(())
    }

    fn body(&self, rpc: &Rpc, rule: &Rule, name: &str, captures: &[Capture]) -> Result<BodyRule, BuildError> {
        match rule.body.as_str() {
            "" => Ok(BodyRule::None),
            "*" => Ok(BodyRule::All),
            field => {
                let index = self.top_level(rpc.input, field, "body", name)?;
                if captures.iter().any(|capture| capture.field == [index]) {
                    return Err(BuildError::rule(name, format!("field {field:?} is in both path and body")));
                }
                if let Some(rival) = self.rival(rpc.input, &[index], captures) {
                    let problem = format!("path field {rival:?} and body {field:?} are in one oneof");
                    return Err(BuildError::rule(name, problem));
                }
                Ok(BodyRule::Field(index))
            }
        }
    }

    /// The path field that excludes this one: another member of a oneof that the field is in, or a message that holds it.
    fn rival<'c>(&self, root: MessageId, field: &[u16], captures: &'c [Capture]) -> Option<&'c str> {
        let mut bound = Bound::default();
        captures.iter().for_each(|capture| bound.insert(&capture.field));
        let (_, rival) = bound.rival_on(self.schema, root, field)?;
        captures.iter().find(|capture| capture.field.starts_with(&rival)).map(|capture| &*capture.name)
    }

    /// As grpc-gateway does it: for PATCH whose body is a message field, unless the path sets the mask.
    fn mask(&self, rpc: &Rpc, rule: &Rule, body: &BodyRule, path_bound: &Bound) -> Option<u16> {
        let BodyRule::Field(index) = body else { return None };
        let message = self.schema.message(rpc.input);
        let resource = message.fields.get(usize::from(*index))?;
        let mask = message.by_name("update_mask")?;
        let is_mask = matches!(mask.kind, Kind::Message(id) if self.schema.message(id).shape == Shape::FieldMask);
        let is_resource = matches!(resource.kind, Kind::Message(id) if self.schema.message(id).shape == Shape::Plain);
        let wanted = rule.method == Some(Method::PATCH)
            && !rpc.client_streaming
            && resource.card == Card::Singular
            && mask.card == Card::Singular;
        let free = path_bound.get(mask.index).is_none() && mask.index != *index;
        (wanted && is_mask && is_resource && free).then_some(mask.index)
    }

    fn top_level(&self, root: MessageId, field: &str, part: &str, name: &str) -> Result<u16, BuildError> {
        let found = self.schema.message(root).by_name(field);
        found.map(|f| f.index).ok_or_else(|| BuildError::rule(name, format!("{part}: no field {field:?}")))
    }

    fn path_field(&self, root: MessageId, path: &str, name: &str) -> Result<Vec<u16>, BuildError> {
        let found = self.schema.resolve(root, path).map_err(|error| {
            BuildError::rule(
                name,
                match error {
                    PathError::Unknown => format!("no field {path:?} for the path"),
                    PathError::NotMessage => format!("field {path:?} for the path is not within a single message"),
                    PathError::TooDeep => format!("field {path:?} for the path is too deep"),
                },
            )
        })?;
        match self.schema.field(root, &found) {
            Some(f) if f.card != Card::Singular => {
                Err(BuildError::rule(name, format!("repeated field {path:?} in the path")))
            }
            Some(f) if is_text(self.schema, f) => Ok(found),
            _ => Err(BuildError::rule(name, format!("field {path:?} in the path is a message"))),
        }
    }
}

/// Can a path variable or a query parameter hold this field (or one element of it)?
pub(crate) fn is_text(schema: &Schema, f: &Field) -> bool {
    match f.kind {
        Kind::Message(id) => {
            matches!(schema.message(id).shape, Shape::Timestamp | Shape::Duration | Shape::FieldMask | Shape::Wrapper)
        }
        _ => true,
    }
}

fn no_side_effects(method: &MethodDescriptor) -> bool {
    use prost_reflect::prost_types::method_options::IdempotencyLevel;
    let options = method.method_descriptor_proto().options.as_ref();
    options.is_some_and(|o| o.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

/// What a client stream and its rule must have in common.
fn check_client_stream(rpc: &Rpc, route: &Route, name: &str) -> Result<(), BuildError> {
    if !rpc.client_streaming {
        return Ok(());
    }
    if let BodyRule::None = route.body {
        return Err(BuildError::rule(name, "a client-streaming method needs a body"));
    }
    let Some(FilenameField { field, name: path }) = &rpc.filename_field else { return Ok(()) };
    if !route.raw_request {
        return Err(BuildError::rule(name, "file_upload needs a body that is a google.api.HttpBody"));
    }
    let inside = route.body_field.is_none() || route.query_bound.covers(field);
    if inside {
        return Err(BuildError::rule(name, format!("file_upload: {path:?} is set by the path or the body")));
    }
    Ok(())
}
