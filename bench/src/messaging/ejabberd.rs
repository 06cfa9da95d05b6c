//! ejabberd with its archive in Postgres (mod_mam), and a client of it, as much of one as is needed: XMPP with SASL PLAIN and
//! stream management (XEP-0198).
//!
//! When does a sender know that its message is archived? `mod_mam` inserts the sender's row in the hook `user_send_packet`, and,
//! as the recipient is offline, the recipient's row in `offline_message_hook`. Both run in the process of the sender's
//! connection, and each returns after the commit, for a row is a transaction of its own. That process takes one stanza after
//! the other, so its answer to an `<r/>` that follows the message comes after both commits. Nothing is cheaper for ejabberd: a
//! recipient that is there would get a copy besides. Because `<a/>` also comes if an insert failed, the rows are counted at the
//! end ([`Ejabberd::check`]).

use std::cell::Cell;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Bench;
use crate::pgbench::TEXT;
use crate::process::{Pid, Server};
use crate::report;
use crate::world::execute;

/// Where it keeps accounts and messages.
const DATABASE: &str = "ejabberd";
const PASSWORD: &str = "secret";
/// Its configuration, with names in `@` where something has to be filled in.
const CONFIG: &str = include_str!("../../ejabberd.yml");
/// Its driver for Postgres knows TCP only, and the stack's Postgres Unix sockets only. So one function of the driver is
/// replaced, the one that connects, by one that takes the host for a path. Passing the bytes on cost it a third of its rate on
/// a busy machine.
const UNIX_SOCKET: &str = r#"
    {ok, {_, [{_, {_, Forms}}]}} = beam_lib:chunks(code:which(pgsql_util), [abstract_code]),
    {ok, Tokens, _} = erl_scan:string("connect(Path, _, Timeout) ->
        gen_tcp:connect({local, Path}, 0, [{active, false}, binary, {packet, raw}], Timeout)."),
    {ok, Connect} = erl_parse:parse_form(Tokens),
    Replaced = [case Form of {function, _, connect, 3, _} -> Connect; _ -> Form end || Form <- Forms],
    {ok, Module, Code} = compile:forms(Replaced, [nowarn_unused_function]),
    {module, Module} = code:load_binary(Module, "pgsql_util", Code)."#;

/// The server, with accounts that send, and for each conversation one that is written to.
pub struct Ejabberd {
    server: Server,
    database: String,
    senders: usize,
    conversations: usize,
    /// Messages that were ever acknowledged.
    messages: Cell<u64>,
}

impl Ejabberd {
    /// Starts it with what is installed, and writes to everybody once, so that it has cached all accounts and preferences.
    pub async fn start(bench: &Bench, installed: &Path, conversations: usize) -> Result<Self> {
        let (senders, database) = (bench.flags.in_flight, bench.make_database(DATABASE).await?);
        execute(&database, &fs::read_to_string(installed.join("pg.sql")).context("reading ejabberd's schema")?).await?;
        let accounts = format!(
            "INSERT INTO users (username, password)
             SELECT 'sender-' || n, '{PASSWORD}' FROM generate_series(0, {senders} - 1) n
             UNION ALL SELECT 'recipient-' || n, '{PASSWORD}' FROM generate_series(0, {conversations} - 1) n"
        );
        execute(&database, &accounts).await?;
        execute(&database, "VACUUM (ANALYZE) users").await?;

        let postgres = bench.stack.postgres_socket()?;
        let folder = bench.stack.folder().join("ejabberd");
        fs::create_dir_all(&folder)?;
        let config = folder.join("ejabberd.yml");
        let start = |address: SocketAddr| {
            let text = CONFIG.replace("@LISTEN@", &address.port().to_string());
            let text = text.replace("@POSTGRES@", &postgres.to_string_lossy()).replace("@DATABASE@", DATABASE);
            fs::write(&config, text)?;
            let mut erl = Command::new("erl");
            erl.current_dir(&folder).env("ERL_LIBS", installed.join("lib")).env("EJABBERD_CONFIG_PATH", &config);
            erl.env("EJABBERD_LOG_PATH", folder.join("ejabberd.log")).stdout(Stdio::null());
            // It always complains when it stops.
            erl.stderr(File::create(folder.join("stderr.log"))?);
            // Without a node's name there is no port for other nodes. A scheduler that waits does not spin: Postgres has
            // the same core.
            erl.args(["-noinput", "+S", "1", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]);
            erl.args(["-mnesia", "dir", &format!("{:?}", folder.join("spool"))]);
            erl.args(["-eval", UNIX_SOCKET, "-s", "ejabberd"]);
            Ok(erl)
        };
        let server = bench.cores.on_server(|| Server::start(start))?;
        let ejabberd = Self { server, database, senders, conversations, messages: Cell::new(0) };
        let connections = ejabberd.connect().await?;
        try_join_all(connections.into_iter().enumerate().map(async |(sender, mut connection)| {
            for conversation in (sender..conversations).step_by(senders) {
                ejabberd.send(&mut connection, conversation, "first").await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(ejabberd)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// A connection for each sender.
    pub async fn connect(&self) -> Result<Vec<Connection>> {
        let connect = |sender| Connection::open(self.server.address, format!("sender-{sender}"));
        try_join_all((0..self.senders).map(connect)).await
    }

    /// Sends a message, and waits until it is archived.
    pub async fn send(&self, connection: &mut Connection, conversation: usize, id: &str) -> Result<()> {
        connection.send(&format!("recipient-{conversation}@localhost"), id).await?;
        self.messages.update(|messages| messages + 1);
        Ok(())
    }

    /// The conversation that a sender writes to, of those that are its own.
    pub fn conversation(&self, sender: usize, random: &mut crate::legs::Random) -> usize {
        (sender + self.senders * random.below(self.conversations.div_ceil(self.senders))) % self.conversations
    }

    /// Whether both have every message in their archive, the sender and the recipient.
    pub async fn check(&self) -> Result<()> {
        let rows = 2 * self.messages.get();
        let check = format!("DO $$ BEGIN ASSERT (SELECT count(*) FROM archive) = {rows}, 'not {rows} rows'; END $$");
        execute(&self.database, &check).await.context("ejabberd's archive is not what was acknowledged")
    }
}

/// The versions of Debian's packages.
pub fn versions() -> impl Iterator<Item = String> {
    ["ejabberd", "erlang-base"]
        .into_iter()
        .map(|package| report::output_of(&["dpkg-query", "--show", "--showformat=${Package} ${Version}", package]))
}

/// A connection that is logged in.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    sent: u64,
}

impl Connection {
    async fn open(address: SocketAddr, account: String) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, received: Vec::new(), sent: 0 };
        let header = "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
        let identity = STANDARD.encode(format!("\0{account}\0{PASSWORD}"));
        let login = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{identity}</auth>");
        let bind = "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        connection.call(header, "<?xml", "</stream:features>").await?;
        connection.call(&login, "<success", "/>").await?;
        connection.call(header, "<?xml", "</stream:features>").await?;
        connection.call(bind, "<iq type='result'", "</iq>").await?;
        connection.call("<enable xmlns='urn:xmpp:sm:3'/>", "<enabled", "/>").await?;
        Ok(connection)
    }

    /// Sends a message, and waits until that and all before are dealt with.
    async fn send(&mut self, to: &str, id: &str) -> Result<()> {
        self.sent += 1;
        let request =
            format!("<message type='chat' to='{to}' id='{id}'><body>{TEXT}</body></message><r xmlns='urn:xmpp:sm:3'/>");
        let answer = format!("<a h='{}'", self.sent);
        self.call(&request, &answer, "/>").await
    }

    /// Writes, and reads what must have this beginning, up to its end. Nothing else is on its way.
    async fn call(&mut self, request: &str, beginning: &str, end: &str) -> Result<()> {
        self.received.clear();
        self.stream.write_all(request.as_bytes()).await?;
        while !self.received.windows(end.len()).any(|window| window == end.as_bytes()) {
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the connection ended");
        }
        let answer = String::from_utf8_lossy(&self.received);
        ensure!(answer.starts_with(beginning), "instead of {beginning}: {answer}");
        Ok(())
    }
}
