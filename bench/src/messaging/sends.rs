//! Messages, each acknowledged after its commit is on disk.

use anyhow::Result;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{SendMessageRequest, send_message_request};
use serde_json::json;

use super::ejabberd::{self, Ejabberd};
use super::socketio::Socket;
use super::{Bench, PEERS_DATABASE, make_accounts};
use crate::WARM_UP;
use crate::client::Http2;
use crate::gateway::peers;
use crate::legs::Random;
use crate::load::{Sample, Subjects, closed_loop};
use crate::pgbench::{ONE_STATEMENT, Pgbench, TEXT};
use crate::process::Server;
use crate::report::{self, Comparison, Measured, Section, cpu, rate, ratios};
use crate::world::{Account, SETUP_IN_FLIGHT, start_conversation};

/// Who is measured.
#[derive(Clone, Copy)]
enum Load {
    Rialto,
    /// With so many clients.
    Pgbench(usize),
    SocketIo,
    Ejabberd,
}

impl Load {
    fn title(self) -> String {
        match self {
            Self::Rialto => "SendMessage, gRPC".to_owned(),
            Self::Pgbench(clients) => format!("pgbench, one statement, clients: {clients}"),
            Self::SocketIo => "socket.io and Postgres".to_owned(),
            Self::Ejabberd => "ejabberd, archive in Postgres".to_owned(),
        }
    }

    /// How many times as much the server has to do: over many conversations, and in one.
    fn wanted(self, hot: bool) -> Option<f64> {
        match (self, hot) {
            (Self::Rialto, _) => None,
            (Self::Pgbench(1), _) => Some(2.0),
            (Self::Pgbench(_), true) => Some(8.0),
            (Self::Pgbench(_), false) => Some(2.5),
            (Self::SocketIo | Self::Ejabberd, true) => None,
            (Self::SocketIo, false) => Some(7.0),
            (Self::Ejabberd, false) => Some(10.0),
        }
    }
}

/// What is sent to.
struct Room<'a> {
    server: &'a Server,
    socketio: Option<&'a Server>,
    ejabberd: Option<&'a Ejabberd>,
    accounts: &'a [Account],
    /// Each started by the account `index % accounts`.
    conversations: &'a [String],
}

impl Bench {
    /// Over so many conversations; one is hot.
    pub(super) async fn sends(&self, conversations: usize) -> Result<Section> {
        let hot = conversations == 1;
        let server = self.stack.serve(self.cores)?;
        let connection = Http2::connect(server.address).await?;
        let accounts = make_accounts(&connection, self.flags.accounts, &format!("sends-{conversations}")).await?;
        let messaging = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
        eprintln!("making {conversations} conversations…");
        let others: Vec<_> = accounts.iter().skip(1).collect();
        let made: Vec<_> = stream::iter(0..conversations)
            .map(|index| {
                let (account, next) = (&accounts[index % accounts.len()], &accounts[(index + 1) % accounts.len()]);
                let (messaging, others) = (messaging.clone(), &others);
                // Everybody is in the hot one.
                async move {
                    let pair = [next];
                    start_conversation(messaging, account, if hot { others } else { &pair }).await
                }
            })
            .buffered(SETUP_IN_FLIGHT)
            .try_collect()
            .await?;
        self.make_peers_tables(conversations).await?;
        let socketio = self.start_socketio()?;
        let installed = (!hot).then(|| peers::install("ejabberd"));
        let ejabberd = match &installed {
            Some(Ok(installed)) => Some(Ejabberd::start(self, installed, conversations).await?),
            Some(Err(_)) | None => None,
        };
        let room = Room {
            server: &server,
            socketio: socketio.as_ref(),
            ejabberd: ejabberd.as_ref(),
            accounts: &accounts,
            conversations: &made,
        };
        let mut loads = vec![Load::Rialto, Load::Pgbench(32)];
        loads.extend(hot.then_some(Load::Pgbench(1)));
        loads.extend(socketio.as_ref().map(|_| Load::SocketIo));
        loads.extend(ejabberd.as_ref().map(|_| Load::Ejabberd));
        let mut measured: Vec<_> =
            loads.iter().map(|load| Measured { title: load.title(), samples: Vec::new() }).collect();
        for load in &loads {
            self.send(*load, &room, 0, WARM_UP).await?;
        }
        for round in 1..=self.flags.rounds {
            for index in report::order(round, loads.len()) {
                let sample = self.send(loads[index], &room, round, self.wall()).await?;
                let Measured { title, samples } = &mut measured[index];
                eprintln!("round {round}/{}: {title}: {:.0} messages/s", self.flags.rounds, sample.rate);
                samples.push(sample);
            }
        }
        let mut versions = self.versions()?;
        if let Some(ejabberd) = &ejabberd {
            ejabberd.check().await?;
            versions.extend(ejabberd::versions());
        }
        let mut compared = Vec::new();
        if let Some((ours, peers)) = measured.split_first() {
            compared.extend(peers.iter().zip(&loads[1..]).map(|(peer, load)| Comparison {
                target: format!("{} : {}", ours.title, peer.title),
                ratios: ratios(&ours.figures(rate), &peer.figures(rate)),
                wanted: load.wanted(hot),
                otherwise: ratios(&peer.figures(cpu), &ours.figures(cpu)),
            }));
        }
        let mut text = format!(
            "{conversations} conversations. A call is a message, acknowledged after its commit is on disk.\n\n{}\n{}",
            report::loads(&measured, true),
            report::comparisons(&compared, "ratio by CPU"),
        );
        if let Some(Err(why)) = installed {
            text += &format!("\nWithout ejabberd: {why}\n");
        }
        Ok(Section { text, versions })
    }

    async fn send(&self, load: Load, room: &Room<'_>, run: usize, wall: std::time::Duration) -> Result<Sample> {
        let database = Some(self.stack.postgres()?);
        match load {
            Load::Rialto => {
                let subjects = Subjects { server: Some(room.server.pid()), database, ..Subjects::default() };
                self.send_to_rialto(room, run, wall, subjects).await
            }
            Load::Pgbench(clients) => {
                let pgbench = Pgbench {
                    program: &self.flags.pgbench,
                    script: ONE_STATEMENT,
                    database: &self.stack.database_url_for(PEERS_DATABASE),
                    folder: self.stack.folder(),
                    clients,
                    accounts: room.accounts.len(),
                    conversations: room.conversations.len(),
                };
                pgbench.run(wall, Subjects { database, ..Subjects::default() }).await
            }
            Load::SocketIo => {
                let server = room.socketio.map(Server::pid);
                self.send_to_socketio(room, run, wall, Subjects { server, database, ..Subjects::default() }).await
            }
            Load::Ejabberd => {
                let Some(ejabberd) = room.ejabberd else { anyhow::bail!("there is no ejabberd") };
                let subjects = Subjects { server: Some(ejabberd.pid()), database, ..Subjects::default() };
                send_to_ejabberd(ejabberd, run, wall, subjects).await
            }
        }
    }

    async fn send_to_rialto(
        &self,
        room: &Room<'_>,
        run: usize,
        wall: std::time::Duration,
        subjects: Subjects,
    ) -> Result<Sample> {
        let connections =
            try_join_all((0..self.flags.connections).map(|_| Http2::connect(room.server.address))).await?;
        let callers = (0..self.flags.in_flight).zip(connections.iter().cycle()).map(|(sender, connection)| {
            let mut client = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
            let (mut random, mut count) = (Random(sender as u64), 0_u32);
            let (conversations, accounts) = (room.conversations, room.accounts);
            async move || {
                let index = random.below(conversations.len());
                count += 1;
                let request = SendMessageRequest {
                    conversation_id: conversations[index].clone(),
                    client_message_id: format!("{run:04}-{sender:04}-{count:026}"),
                    content: Some(send_message_request::Content::Text(TEXT.to_owned())),
                    ..Default::default()
                };
                // Everybody is in the hot one, two are in each of the others.
                let account = if conversations.len() == 1 { sender } else { index } % accounts.len();
                Ok(client.send_message(accounts[account].request(request)).await.map(drop)?)
            }
        });
        closed_loop(callers, wall, subjects).await
    }

    async fn send_to_socketio(
        &self,
        room: &Room<'_>,
        run: usize,
        wall: std::time::Duration,
        subjects: Subjects,
    ) -> Result<Sample> {
        let Some(server) = room.socketio else { anyhow::bail!("there is no server on Node.js") };
        let sockets = try_join_all((0..self.flags.in_flight).map(|_| Socket::connect(server.address))).await?;
        let callers = sockets.into_iter().enumerate().map(|(sender, mut socket)| {
            let (mut random, mut count) = (Random(sender as u64), 0_u32);
            let conversations = room.conversations.len();
            async move || {
                count += 1;
                let (conversation, id) = (random.below(conversations) + 1, format!("{run:04}-{sender:04}-{count:026}"));
                socket.call(&json!(["send", conversation, sender, id, TEXT])).await
            }
        });
        closed_loop(callers, wall, subjects).await
    }
}

async fn send_to_ejabberd(
    ejabberd: &Ejabberd,
    run: usize,
    wall: std::time::Duration,
    subjects: Subjects,
) -> Result<Sample> {
    let connections = ejabberd.connect().await?;
    let callers = connections.into_iter().enumerate().map(|(sender, mut connection)| {
        let (mut random, mut count) = (Random(sender as u64), 0_u32);
        async move || {
            count += 1;
            let conversation = ejabberd.conversation(sender, &mut random);
            ejabberd.send(&mut connection, conversation, &format!("{run:04}-{sender:04}-{count:026}")).await
        }
    });
    closed_loop(callers, wall, subjects).await
}
