//! What reading costs when there is much history: the same conversations with few messages and with many.

use anyhow::{Context, Result, bail};
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{ListConversationsRequest, ListMessagesRequest, SubscribeRequest};

use super::{Bench, make_accounts};
use crate::client::Http2;
use crate::legs::Random;
use crate::load::{Sample, Subjects, closed_loop};
use crate::pgbench::TEXT;
use crate::process::Server;
use crate::report::{self, Comparison, Measured, Section, cpu, rate, ratios};
use crate::world::{Account, execute, start_conversation};

/// Conversations of one account, each with another one.
const CONVERSATIONS: usize = 100;
/// Over so many days the messages were sent. Each has a partition of its own.
const DAYS: usize = 29;
/// Messages of a page, and messages that somebody missed who comes back.
const PAGE: usize = 50;
/// A page from the middle is full.
pub(super) const LEAST_MESSAGES: usize = 2 * PAGE * CONVERSATIONS;
/// Calls at once.
const CALLERS: usize = 32;
/// How many calls there must be with many messages for each with few: 1 / 1.3.
const LEAST: f64 = 0.77;

/// What is called.
#[derive(Clone, Copy)]
enum Load {
    Conversations,
    Newest,
    Middle,
    Resume,
}

impl Load {
    const ALL: [Self; 4] = [Self::Conversations, Self::Newest, Self::Middle, Self::Resume];

    fn title(self) -> &'static str {
        match self {
            Self::Conversations => "ListConversations, the first 50",
            Self::Newest => "ListMessages, the newest 50",
            Self::Middle => "ListMessages, 50 from the middle",
            Self::Resume => "Subscribe, 50 that were missed",
        }
    }
}

/// A server with a database of its own.
struct History {
    messages: usize,
    server: Server,
    database: String,
}

impl Bench {
    pub(super) async fn history(&self) -> Result<Section> {
        let server = self.stack.serve(self.cores)?;
        let connection = Http2::connect(server.address).await?;
        let accounts = make_accounts(&connection, 2, "history").await?;
        let [reader, other] = accounts.as_slice() else { bail!("there are not two accounts") };
        let messaging = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
        let mut conversations = Vec::new();
        for _ in 0..CONVERSATIONS {
            conversations.push(start_conversation(messaging.clone(), reader, &[other]).await?);
        }
        // Databases are copied when nobody is connected.
        drop((messaging, connection, server));
        let mut histories = Vec::new();
        for messages in &self.flags.history {
            let database = format!("history_{messages}");
            self.stack.copy_database(&database).await?;
            eprintln!("writing {messages} messages…");
            let url = self.stack.database_url_for(&database);
            execute(&url, &fill(&conversations, messages / CONVERSATIONS)).await?;
            execute(&url, "VACUUM (ANALYZE)").await?;
            execute(&url, "CHECKPOINT").await?;
            let server = self.stack.serve_database(self.cores, &database)?;
            histories.push(History { messages: *messages, server, database });
        }

        let mut measured = Vec::new();
        for load in Load::ALL {
            for history in &histories {
                let title = format!("{}, of {} messages", load.title(), history.messages);
                measured.push((load, history, Measured { title, samples: Vec::new() }));
            }
        }
        for (load, history, _) in &measured {
            self.read(*load, history, reader, &conversations, crate::WARM_UP).await?;
        }
        for round in 1..=self.flags.rounds {
            for index in report::order(round, measured.len()) {
                let (load, history, Measured { title, samples }) = &mut measured[index];
                let sample = self.read(*load, history, reader, &conversations, self.wall()).await?;
                eprintln!("round {round}/{}: {title}: {:.0} calls/s", self.flags.rounds, sample.rate);
                samples.push(sample);
            }
        }
        let measured: Vec<_> = measured.into_iter().map(|(_, _, measured)| measured).collect();
        let compared = measured.chunks(histories.len()).flat_map(|of_load| {
            of_load.iter().skip(1).map(|many| Comparison {
                target: format!("{} : {}", many.title, of_load[0].title),
                ratios: ratios(&many.figures(rate), &of_load[0].figures(rate)),
                wanted: Some(LEAST),
                otherwise: ratios(&of_load[0].figures(cpu), &many.figures(cpu)),
            })
        });
        let compared: Vec<_> = compared.collect();
        for history in histories {
            drop(history.server);
            execute(&self.stack.database_url_for("postgres"), &format!("DROP DATABASE {} (FORCE)", history.database))
                .await?;
        }
        let text = format!(
            "{CONVERSATIONS} conversations over {DAYS} days, {CALLERS} calls at once.\n\n{}\n{}",
            report::loads(&measured, true),
            report::comparisons(&compared, "ratio by CPU"),
        );
        Ok(Section { text, versions: self.versions()? })
    }

    async fn read(
        &self,
        load: Load,
        history: &History,
        reader: &Account,
        conversations: &[String],
        wall: std::time::Duration,
    ) -> Result<Sample> {
        let each = i64::try_from(history.messages / CONVERSATIONS)?;
        let page = i32::try_from(PAGE)?;
        let mut callers = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..self.flags.connections {
            connections.push(Http2::connect(history.server.address).await?);
        }
        for (caller, connection) in (0..CALLERS).zip(connections.iter().cycle()) {
            let mut client = MessagingServiceClient::with_origin(connection.clone(), connection.origin.clone());
            let mut random = Random(caller as u64);
            callers.push(async move || {
                let conversation_id = conversations[random.below(conversations.len())].clone();
                let got = match load {
                    Load::Conversations => {
                        let request = ListConversationsRequest { page_size: page, ..Default::default() };
                        client.list_conversations(reader.request(request)).await?.into_inner().conversations.len()
                    }
                    Load::Newest | Load::Middle => {
                        let after_seq = matches!(load, Load::Middle).then_some(each / 2);
                        let request =
                            ListMessagesRequest { conversation_id, page_size: page, after_seq, ..Default::default() };
                        client.list_messages(reader.request(request)).await?.into_inner().messages.len()
                    }
                    Load::Resume => {
                        let after_seq = Some(each - i64::from(page));
                        let request = SubscribeRequest { conversation_id, after_seq, ..Default::default() };
                        let mut events = client.subscribe(reader.request(request)).await?.into_inner();
                        for _ in 0..PAGE {
                            events.message().await?.context("the stream ended")?;
                        }
                        PAGE
                    }
                };
                anyhow::ensure!(got == PAGE, "{got} instead of {PAGE}");
                Ok(())
            });
        }
        let database = Some(self.stack.postgres()?);
        let subjects = Subjects { server: Some(history.server.pid()), database, ..Subjects::default() };
        closed_loop(callers, wall, subjects).await
    }
}

/// Writes so many messages into each conversation, evenly over the days until it was last active: many of them lately, some long
/// ago, so that the last messages of a page of conversations are in several partitions. In the order of time, as they would be sent.
fn fill(conversations: &[String], each: usize) -> String {
    let conversations = conversations.join(",");
    format!(
        "SELECT create_message_partitions(now() - make_interval(days => day), 1) FROM generate_series(0, {DAYS}) day;
         CREATE TEMPORARY TABLE filled AS
             SELECT c.id, created_by, now() - make_interval(days => {DAYS}) AS began,
                    now() - make_interval(days => {DAYS}) * power((place - 1) / {CONVERSATIONS}.0, 2) AS ended
             FROM unnest('{{{conversations}}}'::uuid[]) WITH ORDINALITY AS i (id, place) JOIN conversations c USING (id);
         INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text)
             SELECT id, seq, ended - (ended - began) * (({each} - seq)::float8 / {each}) AS at, gen_random_uuid(), created_by,
                    seq::text, seq, '{TEXT}'
             FROM generate_series(1, {each}) seq, filled ORDER BY at;
         UPDATE conversations c SET last_seq = {each}, message_count = {each}, last_message_seq = {each}, created_at = began,
             last_message_at = ended, active_at = ended, changed_at = ended FROM filled f WHERE f.id = c.id;"
    )
}
