//! The route trie. A literal segment is preferred to `*`, and that to `**`, at the first segment where routes differ;
//! the order of declaration plays no part.

use http::Method;
use percent_encoding::percent_decode_str;

use super::template::{Segment, Template};

#[derive(Default)]
pub(crate) struct Router {
    root: Node,
}

#[derive(Default)]
struct Node {
    /// Sorted.
    literals: Vec<(Box<str>, Node)>,
    single: Option<Box<Node>>,
    /// Routes that end in `**` here.
    multi: Vec<End>,
    ends: Vec<End>,
}

struct End {
    verb: Option<Box<str>>,
    /// `None` takes any method (custom kind `*`).
    method: Option<Method>,
    route: usize,
}

/// How a route takes the method, the best first. The path counts more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Own,
    /// For HEAD.
    Get,
    Any,
}

/// No route: the methods that the path has, if any.
pub(crate) struct Miss {
    pub allowed: Vec<Method>,
}

impl Router {
    /// Refuses a route that no request could tell from an earlier one, naming that.
    pub fn insert(&mut self, method: Option<&Method>, template: &Template, route: usize) -> Result<(), usize> {
        let mut node = &mut self.root;
        let mut multi = false;
        for segment in &template.segments {
            match segment {
                Segment::Literal(text) => node = node.literal_mut(text),
                Segment::Single => node = node.single.get_or_insert_default(),
                Segment::Multi => multi = true,
            }
        }
        let ends = if multi { &mut node.multi } else { &mut node.ends };
        match ends.iter().find(|e| e.verb == template.verb && e.method.as_ref() == method) {
            Some(end) => Err(end.route),
            None => {
                ends.push(End { verb: template.verb.clone(), method: method.cloned(), route });
                Ok(())
            }
        }
    }

    /// Finds the route of a raw path that was split at its slashes.
    pub fn find(&self, method: &Method, segments: &mut [&str]) -> Result<usize, Miss> {
        let fit = |e: &End| match &e.method {
            Some(own) if own == method => Some(Fit::Own),
            Some(own) => (*method == Method::HEAD && *own == Method::GET).then_some(Fit::Get),
            None => Some(Fit::Any),
        };
        if let Some(route) = self.search(segments, fit) {
            return Ok(route);
        }
        let mut allowed = Vec::new();
        self.search(segments, |e| {
            allowed.extend(e.method.clone());
            None
        });
        if allowed.contains(&Method::GET) {
            allowed.push(Method::HEAD);
        }
        if !allowed.is_empty() {
            allowed.push(Method::OPTIONS);
        }
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allowed.dedup();
        Err(Miss { allowed })
    }

    /// The verb of a template is the text after the last colon; where no such route exists, the colon belongs to the
    /// segment. On success by verb, the verb is cut off the last segment.
    fn search(&self, segments: &mut [&str], mut fit: impl FnMut(&End) -> Option<Fit>) -> Option<usize> {
        if let Some(last) = segments.last_mut()
            && let Some((stem, verb)) = last.rsplit_once(':')
        {
            let whole = std::mem::replace(last, stem);
            if let Some(route) = self.root.walk(segments, Some(verb), &mut fit) {
                return Some(route);
            }
            if let Some(last) = segments.last_mut() {
                *last = whole;
            }
        }
        self.root.walk(segments, None, &mut fit)
    }
}

impl Node {
    fn literal_mut(&mut self, text: &str) -> &mut Node {
        let at = match self.literals.binary_search_by(|(t, _)| (**t).cmp(text)) {
            Ok(at) => at,
            Err(at) => {
                self.literals.insert(at, (text.into(), Node::default()));
                at
            }
        };
        &mut self.literals[at].1
    }

    fn literal(&self, segment: &str) -> Option<&Node> {
        let find = |text: &str| {
            let at = self.literals.binary_search_by(|(t, _)| (**t).cmp(text)).ok()?;
            self.literals.get(at).map(|(_, node)| node)
        };
        if segment.contains('%') { find(&percent_decode_str(segment).decode_utf8().ok()?) } else { find(segment) }
    }

    /// A node stands at one depth, so each is visited once at most, whatever the path.
    fn walk(&self, segments: &[&str], verb: Option<&str>, fit: &mut impl FnMut(&End) -> Option<Fit>) -> Option<usize> {
        let pick = |ends: &[End], fit: &mut dyn FnMut(&End) -> Option<Fit>| {
            let ends = ends.iter().filter(|e| e.verb.as_deref() == verb);
            ends.filter_map(|e| Some((fit(e)?, e.route))).min().map(|(_, route)| route)
        };
        let Some((first, rest)) = segments.split_first() else {
            return pick(&self.ends, fit).or_else(|| pick(&self.multi, fit));
        };
        self.literal(first)
            .and_then(|node| node.walk(rest, verb, fit))
            .or_else(|| {
                let node = self.single.as_ref().filter(|_| !first.is_empty())?;
                node.walk(rest, verb, fit)
            })
            .or_else(|| pick(&self.multi, fit))
    }
}
