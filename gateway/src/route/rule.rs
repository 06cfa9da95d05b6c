//! Reads the `google.api.http` option and those of `rialto.gateway.v1` of a method.

use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MethodDescriptor};

/// One binding of a method, as declared.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `None`: any method.
    pub method: Option<Method>,
    pub path: String,
    pub body: String,
    pub response_body: String,
}

/// The `event_stream` option, as declared.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventStream {
    pub id_field: String,
    pub resume_field: String,
}

/// The extensions that this pool knows.
pub(crate) struct Options {
    http: Option<ExtensionDescriptor>,
    event_stream: Option<ExtensionDescriptor>,
    file_upload: Option<ExtensionDescriptor>,
    web_socket: Option<ExtensionDescriptor>,
}

impl Options {
    pub fn new(pool: &DescriptorPool) -> Self {
        Self {
            http: pool.get_extension_by_name("google.api.http"),
            event_stream: pool.get_extension_by_name("rialto.gateway.v1.event_stream"),
            file_upload: pool.get_extension_by_name("rialto.gateway.v1.file_upload"),
            web_socket: pool.get_extension_by_name("rialto.gateway.v1.web_socket"),
        }
    }

    /// The bindings of a method: its rule, then the additional ones.
    pub fn rules(&self, method: &MethodDescriptor) -> Result<Vec<Rule>, &'static str> {
        let Some(rule) = option(method, self.http.as_ref()) else { return Ok(Vec::new()) };
        let mut rules = vec![Rule::read(&rule)?];
        let more = rule.get_field_by_name("additional_bindings");
        for binding in more.as_deref().and_then(|v| v.as_list()).unwrap_or_default() {
            let binding = binding.as_message().ok_or("additional_bindings must hold rules")?;
            if binding
                .get_field_by_name("additional_bindings")
                .is_some_and(|v| v.as_list().is_some_and(|l| !l.is_empty()))
            {
                return Err("additional_bindings must not nest");
            }
            rules.push(Rule::read(binding)?);
        }
        Ok(rules)
    }

    pub fn event_stream(&self, method: &MethodDescriptor) -> Option<EventStream> {
        let option = option(method, self.event_stream.as_ref())?;
        Some(EventStream { id_field: text(&option, "id_field"), resume_field: text(&option, "resume_field") })
    }

    /// The `filename_field` of the `file_upload` option.
    pub fn filename_field(&self, method: &MethodDescriptor) -> Option<String> {
        option(method, self.file_upload.as_ref()).map(|option| text(&option, "filename_field"))
    }

    /// The WebSocket of a method: a GET whose query may set whatever the path does not.
    pub fn web_socket(&self, method: &MethodDescriptor) -> Option<Rule> {
        let option = option(method, self.web_socket.as_ref())?;
        let path = text(&option, "path");
        Some(Rule { method: Some(Method::GET), path, body: String::new(), response_body: String::new() })
    }
}

fn option(method: &MethodDescriptor, extension: Option<&ExtensionDescriptor>) -> Option<DynamicMessage> {
    let extension = extension?;
    let options = method.options();
    if !options.has_extension(extension) {
        return None;
    }
    options.get_extension(extension).as_message().cloned()
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

impl Rule {
    fn read(rule: &DynamicMessage) -> Result<Self, &'static str> {
        const VERBS: [(&str, Method); 5] = [
            ("get", Method::GET),
            ("put", Method::PUT),
            ("post", Method::POST),
            ("delete", Method::DELETE),
            ("patch", Method::PATCH),
        ];
        let (body, response_body) = (text(rule, "body"), text(rule, "response_body"));
        for (name, method) in VERBS {
            if rule.has_field_by_name(name) {
                return Ok(Self { method: Some(method), path: text(rule, name), body, response_body });
            }
        }
        if !rule.has_field_by_name("custom") {
            return Err("the rule has no pattern");
        }
        let custom = rule.get_field_by_name("custom");
        let custom = custom.as_deref().and_then(|v| v.as_message()).ok_or("malformed custom pattern")?;
        let kind = text(custom, "kind");
        let method = match kind.as_str() {
            "*" => None,
            kind => Some(Method::from_bytes(kind.as_bytes()).map_err(|_| "custom kind is not an HTTP method")?),
        };
        Ok(Self { method, path: text(custom, "path"), body, response_body })
    }

    /// `GET /v1/things`, for error messages.
    pub fn describe(&self) -> String {
        format!("{} {}", self.method.as_ref().map_or("*", Method::as_str), self.path)
    }
}
