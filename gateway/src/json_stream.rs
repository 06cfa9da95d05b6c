//! JSON messages of a client stream: the elements of one array, or one value after the other (also known as
//! newline-delimited JSON).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;

use crate::body::RequestBody;
use crate::client_stream::Messages;
use crate::codec::wire::Writer;
use crate::error::Rejection;
use crate::frame;
use crate::service::Shared;
use crate::split::Splitter;
use crate::upload::Fields;

struct Values {
    shared: Arc<Shared>,
    route: usize,
    body: RequestBody,
    splitter: Splitter,
    /// What path and query set, for the first message.
    fields: Fields,
}

/// `array`: the body may be one array of the messages.
pub(crate) fn messages(shared: Arc<Shared>, route: usize, body: RequestBody, array: bool, fields: Fields) -> Messages {
    let splitter = Splitter::new(array, shared.limits.request_bytes);
    let values = Values { shared, route, body, splitter, fields };
    Box::pin(stream::try_unfold(values, |mut values| async move {
        let message = values.next().await?;
        Ok(message.map(|message| (message, values)))
    }))
}

impl Values {
    async fn next(&mut self) -> Result<Option<Bytes>, Rejection> {
        loop {
            if let Some((index, json)) = self.splitter.next()? {
                return self.message(index, &json).map(Some);
            }
            if self.splitter.has_ended() {
                return Ok(None);
            }
            match self.body.data().await {
                Some(data) => self.splitter.push(&data?),
                None => self.splitter.end(),
            }
        }
    }

    fn message(&mut self, index: usize, json: &[u8]) -> Result<Bytes, Rejection> {
        let Some(route) = self.shared.plan.routes.get(self.route) else { return Err(Rejection::Route) };
        let fields = std::mem::take(&mut self.fields);
        let mut out = Writer::new(frame::buffer(json.len() + 64));
        out.buf.extend_from_slice(&fields.before);
        self.shared.body(route, json, &mut out).map_err(|e| e.at_index(index))?;
        out.buf.extend_from_slice(&fields.after);
        frame::seal(out.finish()).ok_or(Rejection::MessageTooLarge { index, limit: self.shared.limits.request_bytes })
    }
}
