//! Path templates of `google.api.http` (google/api/http.proto, "Path template syntax").

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(Box<str>),
    /// `*`: one segment.
    Single,
    /// `**`: the rest, which may be nothing.
    Multi,
}

#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub segments: Vec<Segment>,
    pub verb: Option<Box<str>>,
    pub variables: Vec<Variable>,
}

/// A variable and the template segments that it spans.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    /// Dotted path of the request field.
    pub field: String,
    pub start: usize,
    pub end: usize,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parser = Parser { rest: text, template: Template { segments: vec![], verb: None, variables: vec![] } };
        parser.take("/").ok_or("must begin with '/'")?;
        parser.segments(true)?;
        if parser.take(":").is_some() {
            parser.template.verb = Some(parser.literal()?.into());
        }
        if !parser.rest.is_empty() {
            return Err("unexpected character");
        }
        let multi = parser.template.segments.iter().position(|s| *s == Segment::Multi);
        if multi.is_some_and(|at| at + 1 != parser.template.segments.len()) {
            return Err("'**' must be the last segment");
        }
        Ok(parser.template)
    }

    /// Does the variable span more than one segment of a path? Then `%2F` in it stays as it is.
    pub fn is_multi(&self, variable: &Variable) -> bool {
        self.segments.get(variable.start..variable.end) != Some(&[Segment::Single])
    }
}

struct Parser<'t> {
    rest: &'t str,
    template: Template,
}

impl<'t> Parser<'t> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn segments(&mut self, variables: bool) -> Result<(), &'static str> {
        loop {
            if self.take("{").is_some() {
                if !variables {
                    return Err("variables do not nest");
                }
                self.variable()?;
            } else if self.take("**").is_some() {
                self.template.segments.push(Segment::Multi);
            } else if self.take("*").is_some() {
                self.template.segments.push(Segment::Single);
            } else {
                let literal = Segment::Literal(self.literal()?.into());
                self.template.segments.push(literal);
            }
            if self.take("/").is_none() {
                return Ok(());
            }
        }
    }

    fn variable(&mut self) -> Result<(), &'static str> {
        let end = self.rest.find(['=', '}']).ok_or("unclosed '{'")?;
        let (field, rest) = self.rest.split_at(end);
        let named = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !field.split('.').all(named) {
            return Err("a variable must be a dotted field path");
        }
        self.rest = rest;
        let start = self.template.segments.len();
        if self.take("=").is_some() {
            self.segments(false)?;
        } else {
            self.template.segments.push(Segment::Single);
        }
        self.take("}").ok_or("unclosed '{'")?;
        let end = self.template.segments.len();
        self.template.variables.push(Variable { field: field.to_owned(), start, end });
        Ok(())
    }

    fn literal(&mut self) -> Result<&'t str, &'static str> {
        let end = self.rest.find(['/', ':', '{', '}', '*', '=']).unwrap_or(self.rest.len());
        let (literal, rest) = self.rest.split_at(end);
        if literal.is_empty() || literal.bytes().any(|b| b <= b' ' || matches!(b, b'?' | b'#' | b'%' | 0x7f)) {
            return Err("empty segment or character that a literal cannot hold");
        }
        self.rest = rest;
        Ok(literal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_span_the_segments_between_their_braces() {
        let t = Template::parse("/v1/{a.b=x/*/y/**}:run").expect("valid");
        assert_eq!(t.segments.len(), 5);
        assert_eq!(t.verb.as_deref(), Some("run"));
        assert_eq!((t.variables[0].field.as_str(), t.variables[0].start, t.variables[0].end), ("a.b", 1, 5));
        assert!(t.is_multi(&t.variables[0]));
    }

    #[test]
    fn malformed_templates_are_refused() {
        for text in
            ["", "v1", "/", "/v1/", "/v1//x", "/{a", "/{a={b}}", "/**/x", "/a*b", "/{}", "/{a..b}", "/x:", "/x?y"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
