//! What answers, everywhere the same: a tonic service that has its answers in memory. And the server around it, with the
//! gateway in process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use futures_util::{Stream, StreamExt};
use http::header;
use pbjson_types::Timestamp;
use rialto_gateway::Gateway;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::service::Routes;
use tonic::{Request, Status};
use tower::{Service, ServiceExt};

use super::listener;
use contract::order_service_server::{OrderService, OrderServiceServer};
use contract::{
    Buyer, GetRequest, ListRequest, ListResponse, Order, PublishRequest, PublishResponse, State, WatchRequest,
};

/// The code that the build makes of `gateway.proto`, and its JSON by pbjson.
pub mod contract {
    #![allow(clippy::all, clippy::pedantic, reason = "generated")]

    tonic::include_proto!("bench.v1");
    include!(concat!(env!("OUT_DIR"), "/bench.v1.serde.rs"));
}

/// The descriptor set of `gateway.proto`, with all options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
/// How many orders `List` answers with.
pub const LISTED: usize = 100;

/// An order. Each is another one, and all take nearly as many bytes.
pub fn order(index: usize) -> Order {
    let small = i32::try_from(index % 100).unwrap_or_default();
    let number = 1_234_567_890_100 + i64::from(small);
    let time = |seconds: i64| Some(Timestamp { seconds: 1_795_264_496 + seconds * 3607, nanos: 789_000_000 });
    Order {
        id: format!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd38{:04}", index % 10_000),
        number,
        title: format!("Engine part {}", 10 + small % 90),
        state: State::Shipped.into(),
        quantity: 10 + small % 90,
        price: 1249.25 + f64::from(small),
        paid: true,
        tags: ["new", "gift"].map(str::to_owned).to_vec(),
        item_numbers: vec![17, 4],
        created_at: time(i64::from(small)),
        updated_at: time(i64::from(small) + 24),
        buyer: Some(Buyer { name: "Ada".to_owned(), level: 7 }),
    }
}

/// So many orders.
pub fn list(count: usize) -> ListResponse {
    ListResponse { orders: (0..count).map(order).collect() }
}

/// As any tonic service does, it hands out a message of its own for each call, which tonic encodes.
struct Orders {
    one: Order,
    all: ListResponse,
    published: broadcast::Sender<Arc<Order>>,
}

type Answer<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl OrderService for Orders {
    async fn get(&self, _: Request<GetRequest>) -> Answer<Order> {
        Ok(tonic::Response::new(self.one.clone()))
    }

    async fn list(&self, _: Request<ListRequest>) -> Answer<ListResponse> {
        Ok(tonic::Response::new(self.all.clone()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Order, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let orders = BroadcastStream::new(self.published.subscribe()).map(|order| match order {
            Ok(order) => Ok(Order::clone(&order)),
            Err(BroadcastStreamRecvError::Lagged(_)) => Err(Status::data_loss("too slow")),
        });
        Ok(tonic::Response::new(Box::pin(orders)))
    }

    async fn publish(&self, _: Request<PublishRequest>) -> Answer<PublishResponse> {
        // It fails if nobody watches.
        let watchers = self.published.send(Arc::new(self.one.clone())).unwrap_or(0);
        Ok(tonic::Response::new(PublishResponse { watchers: i64::try_from(watchers).unwrap_or(i64::MAX) }))
    }
}

/// Serves until the process ends: gRPC as it comes, everything else by way of the gateway.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let published = broadcast::Sender::new(16);
    let orders = Orders { one: order(0), all: list(LISTED), published };
    let grpc = Routes::new(OrderServiceServer::new(orders)).prepare();
    let rest = Gateway::builder(DESCRIPTORS).build(grpc.clone())?;
    let serve = move |request: http::Request<hyper::body::Incoming>| {
        let (grpc, mut rest) = (grpc.clone(), rest.clone());
        async move {
            let content_type = request.headers().get(header::CONTENT_TYPE);
            if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
                grpc.oneshot(request).await
            } else {
                rest.call(request).await
            }
        }
    };
    listener::run(listen, serve).await
}
