//! How `Subscribe` is served: a thousand readers of a conversation get the same bytes, which the code that tonic generates has
//! no way to say. So this takes the method's place; everything else about the call is as for its neighbours.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tonic::codec::CompressionEncoding;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::service::MessagingService;
use crate::kernel::encoded::{Encoded, EncodedCodec};
use crate::proto::rialto::messaging::v1::{SubscribeRequest, SubscribeResponse};

const PATH: &str = "/rialto.messaging.v1.MessagingService/Subscribe";

/// The events of a conversation, each encoded once. If it fails, the last thing is why.
pub type Events = BoxStream<'static, Result<Encoded<SubscribeResponse>, Status>>;

/// Adds the method, with the limit of bytes of a message. Answers are not compressed: that would be done for each reader anew.
pub fn serve(mut routes: Routes, service: Arc<MessagingService>, max: usize) -> Routes {
    let call = move |request: http::Request<_>| {
        let service = Subscribe(Arc::clone(&service));
        async move {
            let grpc = Grpc::new(EncodedCodec::default()).apply_max_message_size_config(Some(max), Some(max));
            Ok::<_, Infallible>(
                grpc.accept_compressed(CompressionEncoding::Gzip).server_streaming(service, request).await,
            )
        }
    };
    let router = routes.axum_router_mut();
    *router = std::mem::take(router).route_service(PATH, tower::service_fn(call));
    routes
}

struct Subscribe(Arc<MessagingService>);

impl ServerStreamingService<SubscribeRequest> for Subscribe {
    type Response = Encoded<SubscribeResponse>;
    type ResponseStream = Events;
    type Future = BoxFuture<'static, Result<Response<Events>, Status>>;

    fn call(&mut self, request: Request<SubscribeRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.watch(request).await })
    }
}
