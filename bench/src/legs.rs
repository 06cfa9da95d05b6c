//! What is measured: each leg is one kind of load on one server.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use rialto::proto::rialto::auth::v1::GetMeRequest;
use rialto::proto::rialto::auth::v1::auth_service_client::AuthServiceClient;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{SendMessageRequest, send_message_request};

use crate::Flags;
use crate::argon2;
use crate::client::{Http1, Http2};
use crate::hello::contract::HelloRequest;
use crate::hello::contract::hello_service_client::HelloServiceClient;
use crate::hello::contract::judged_service_client::JudgedServiceClient;
use crate::load::{Sample, Subjects, closed_loop};
use crate::pgbench::{Pgbench, SAME_SQL, TEXT};
use crate::process::Server;
use crate::report::{Comparison, Measured, cpu, rate, ratios};
use crate::world::{Account, World};

/// A kind of load.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Leg {
    /// A bare tonic server.
    Hello,
    /// `GetMe` over gRPC.
    Grpc,
    /// `GetMe` over gRPC, each call at once on a connection of its own, as over HTTP/1.1.
    GrpcAlone,
    /// `GetMe` over REST.
    Rest,
    /// `SendMessage` over gRPC.
    Send,
    /// pgbench, doing what `SendMessage` does.
    Pgbench,
    /// A call that needs a permission.
    Authorised,
    /// The same call, public.
    Public,
    /// `Login` over gRPC.
    Login,
    /// Nothing but the verification of a password.
    Argon2,
}

impl Leg {
    /// How the tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Hello => "bare tonic hello, gRPC",
            Self::Grpc => "GetMe, gRPC",
            Self::GrpcAlone => "GetMe, gRPC, a connection a call",
            Self::Rest => "GetMe, REST on HTTP/1.1",
            Self::Send => "SendMessage, gRPC",
            Self::Pgbench => "pgbench, the same SQL",
            Self::Authorised => "a call that needs a permission, gRPC",
            Self::Public => "the same call, public, gRPC",
            Self::Login => "Login, gRPC",
            Self::Argon2 => "bare argon2",
        }
    }
}

/// A promise: the rate of one leg is at least so much of that of another.
pub struct Target {
    /// What is judged.
    pub subject: Leg,
    /// What it is compared with.
    pub reference: Leg,
    /// The least ratio.
    pub ratio: f64,
}

/// All promises.
pub const TARGETS: [Target; 6] = [
    Target { subject: Leg::Grpc, reference: Leg::Hello, ratio: 0.7 },
    Target { subject: Leg::Rest, reference: Leg::GrpcAlone, ratio: 1.0 },
    Target { subject: Leg::Rest, reference: Leg::Grpc, ratio: 1.0 },
    Target { subject: Leg::Send, reference: Leg::Pgbench, ratio: 0.9 },
    Target { subject: Leg::Authorised, reference: Leg::Public, ratio: 0.9 },
    Target { subject: Leg::Login, reference: Leg::Argon2, ratio: 0.9 },
];

/// What was measured, held against the promises.
pub fn comparisons(legs: &[Leg], measured: &[Measured]) -> Vec<Comparison> {
    let find = |leg| legs.iter().zip(measured).find(|(own, _)| **own == leg).map(|(_, measured)| measured);
    let compare = |target: &Target| {
        let (subject, reference) = (find(target.subject)?, find(target.reference)?);
        Some(Comparison {
            target: format!("{} : {}", subject.title, reference.title),
            ratios: ratios(&subject.figures(rate), &reference.figures(rate)),
            wanted: Some(target.ratio),
            otherwise: ratios(&reference.figures(cpu), &subject.figures(cpu)),
        })
    };
    TARGETS.iter().filter_map(compare).collect()
}

/// Puts the load on.
pub struct Load<'a> {
    flags: &'a Flags,
    world: &'a World,
    /// Makes the client message ids of each run its own.
    run: Cell<usize>,
}

impl<'a> Load<'a> {
    /// Load on what was started.
    pub fn new(flags: &'a Flags, world: &'a World) -> Self {
        Self { flags, world, run: Cell::new(0) }
    }

    /// Runs a leg for so long.
    pub async fn run(&self, leg: Leg, wall: Duration) -> Result<Sample> {
        self.run.update(|run| run + 1);
        match leg {
            Leg::Hello => self.hello(wall).await,
            Leg::Grpc => self.get_me_over_grpc(wall, self.flags.connections).await,
            Leg::GrpcAlone => self.get_me_over_grpc(wall, self.flags.in_flight).await,
            Leg::Rest => self.get_me_over_rest(wall).await,
            Leg::Send => self.send_message(wall).await,
            Leg::Pgbench => self.pgbench(wall).await,
            Leg::Authorised => self.judged(wall, true).await,
            Leg::Public => self.judged(wall, false).await,
            Leg::Login => self.login(wall).await,
            Leg::Argon2 => self.argon2(wall).await,
        }
    }

    async fn hello(&self, wall: Duration) -> Result<Sample> {
        let connections = self.connect(self.world.hello.address, self.flags.connections).await?;
        let callers = self.callers(&connections, self.flags.in_flight).map(|(_, connection)| {
            let mut client = HelloServiceClient::with_origin(connection.clone(), connection.origin.clone());
            async move || Ok(client.hello(HelloRequest {}).await.map(drop)?)
        });
        closed_loop(callers, wall, self.subjects(&self.world.hello)?).await
    }

    async fn get_me_over_grpc(&self, wall: Duration, connections: usize) -> Result<Sample> {
        let connections = self.connect(self.world.rialto.address, connections).await?;
        let callers = self.callers(&connections, self.flags.in_flight).map(|(index, connection)| {
            let mut client = AuthServiceClient::with_origin(connection.clone(), connection.origin.clone());
            // As with real clients, a connection has one token. It is sent in full each time: h2 indexes no `authorization`.
            let account = self.account(index % connections.len());
            async move || Ok(client.get_me(account.request(GetMeRequest {})).await.map(drop)?)
        });
        closed_loop(callers, wall, self.subjects(&self.world.rialto)?).await
    }

    async fn get_me_over_rest(&self, wall: Duration) -> Result<Sample> {
        let connect = |index| Http1::connect(self.world.rialto.address, Some(&self.account(index).authorization));
        let connections = try_join_all((0..self.flags.in_flight).map(connect)).await?;
        let callers = connections.into_iter().map(|mut connection| {
            async move || {
                let account = connection.get("/v1/auth/me").await?;
                ensure!(account.starts_with(b"{\"id\":"), "no account: {}", String::from_utf8_lossy(&account));
                Ok(())
            }
        });
        closed_loop(callers, wall, self.subjects(&self.world.rialto)?).await
    }

    async fn send_message(&self, wall: Duration) -> Result<Sample> {
        let connections = self.connect(self.world.rialto.address, self.flags.connections).await?;
        let run = self.run.get();
        let callers = self.callers(&connections, self.flags.senders).map(|(sender, connection)| {
            let mut client = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
            let (mut random, mut count) = (Random(sender as u64), 0_u32);
            async move || {
                let index = random.below(self.world.conversations.len());
                count += 1;
                let request = SendMessageRequest {
                    conversation_id: self.world.conversations[index].clone(),
                    client_message_id: format!("{run:04}-{sender:04}-{count:026}"),
                    content: Some(send_message_request::Content::Text(TEXT.to_owned())),
                    ..Default::default()
                };
                Ok(client.send_message(self.account(index).request(request)).await.map(drop)?)
            }
        });
        closed_loop(callers, wall, self.subjects(&self.world.rialto)?).await
    }

    async fn pgbench(&self, wall: Duration) -> Result<Sample> {
        let Flags { pgbench, senders, accounts, conversations, .. } = self.flags;
        let pgbench = Pgbench {
            program: pgbench,
            script: SAME_SQL,
            database: &self.world.reference_database(),
            folder: self.world.stack().folder(),
            clients: *senders,
            accounts: *accounts,
            conversations: *conversations,
        };
        pgbench.run(wall, Subjects { database: Some(self.world.stack().postgres()?), ..Subjects::default() }).await
    }

    /// Both send the same: a public method reads no token.
    async fn judged(&self, wall: Duration, authorised: bool) -> Result<Sample> {
        let connections = self.connect(self.world.judged.address, self.flags.connections).await?;
        let callers = self.callers(&connections, self.flags.in_flight).map(|(index, connection)| {
            let mut client = JudgedServiceClient::with_origin(connection.clone(), connection.origin.clone());
            let account = self.account(index % connections.len());
            async move || {
                let request = account.request(HelloRequest {});
                let answer = if authorised { client.authorised(request).await } else { client.public(request).await };
                Ok(answer.map(drop)?)
            }
        });
        closed_loop(callers, wall, self.subjects(&self.world.judged)?).await
    }

    async fn login(&self, wall: Duration) -> Result<Sample> {
        let connections = self.connect(self.world.rialto.address, self.flags.connections).await?;
        let callers = self.callers(&connections, self.flags.logins).map(|(index, connection)| {
            let mut client = AuthServiceClient::with_origin(connection.clone(), connection.origin.clone());
            let login = &self.world.logins[index];
            async move || {
                let answer = client.login(login.clone()).await?.into_inner();
                ensure!(!answer.access_token.is_empty(), "a login without a token");
                Ok(())
            }
        });
        closed_loop(callers, wall, self.subjects(&self.world.rialto)?).await
    }

    async fn argon2(&self, wall: Duration) -> Result<Sample> {
        let subjects = Subjects { server: Some(self.world.argon2.pid()), ..Subjects::default() };
        argon2::run(self.world.argon2.address, wall, subjects).await
    }

    async fn connect(&self, address: SocketAddr, connections: usize) -> Result<Vec<Http2>> {
        try_join_all((0..connections).map(|_| Http2::connect(address))).await
    }

    /// Callers with the connections that they share.
    fn callers<'c>(&self, connections: &'c [Http2], count: usize) -> impl Iterator<Item = (usize, &'c Http2)> {
        (0..count).zip(connections.iter().cycle())
    }

    fn account(&self, index: usize) -> &'a Account {
        &self.world.accounts[index % self.world.accounts.len()]
    }

    fn subjects(&self, server: &Server) -> Result<Subjects> {
        Ok(Subjects {
            server: Some(server.pid()),
            database: Some(self.world.stack().postgres()?),
            ..Subjects::default()
        })
    }
}

/// A linear congruential generator (Knuth, MMIX): the same conversations in each run.
pub struct Random(pub u64);

impl Random {
    /// The next number, below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
