//! An SMTP server (RFC 5321) that takes everything and shows it to the test, or does what the test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rialto::kernel::config::{Mail, MailTls, MailTransport};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::soon;

/// A mail as it arrived.
#[derive(Debug)]
pub struct Message {
    pub to: String,
    /// Headers and body, decoded as far as the tests need: quoted-printable.
    pub text: String,
}

/// What happens to a message after its data.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Mode {
    /// It is taken.
    Take,
    /// It arrives, and the server never says so.
    Stall,
    /// Come again later.
    Busy,
    /// The address is refused for good.
    Refuse,
}

pub struct Smtp {
    port: u16,
    mode: Arc<AtomicUsize>,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Smtp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, messages) = mpsc::unbounded_channel();
        let mode = Arc::new(AtomicUsize::new(Mode::Take as usize));
        let of_connections = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, mode) = (sender.clone(), Arc::clone(&of_connections));
                tokio::spawn(async move {
                    // A client that goes away in the middle is part of some tests.
                    let _ = converse(stream, sender, mode).await;
                });
            }
        });
        Self { port, mode, messages }
    }

    pub fn mode(&self, mode: Mode) {
        self.mode.store(mode as usize, Ordering::SeqCst);
    }

    /// How to send mail here.
    pub fn config(&self) -> Mail {
        Mail {
            transport: Some(MailTransport::Smtp),
            host: "127.0.0.1".into(),
            port: self.port,
            tls: MailTls::None,
            from: "Rialto <rialto@example.net>".into(),
            ..Mail::default()
        }
    }

    /// The next mail.
    pub async fn next(&mut self) -> Message {
        soon(self.messages.recv()).await.unwrap()
    }

    /// Whether another mail has come.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Message {
    /// The token of the mail's link.
    pub fn token(&self) -> String {
        let (_, rest) = self.text.split_once("?token=").unwrap_or_else(|| panic!("no token in {}", self.text));
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
    }
}

async fn converse(
    stream: TcpStream,
    messages: mpsc::UnboundedSender<Message>,
    mode: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut to = String::new();
    write.write_all(b"220 sink\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        let mode = mode.load(Ordering::SeqCst);
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 sink",
            "RCPT" if mode == Mode::Refuse as usize => "550 no such mailbox",
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                "250 OK"
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut data = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    data += line.strip_prefix('.').unwrap_or(&line);
                    data += "\n";
                }
                if mode == Mode::Busy as usize {
                    "451 come again"
                } else {
                    // Nobody listens when the test is over.
                    let _ = messages.send(Message { to: to.clone(), text: decode(&data) });
                    if mode == Mode::Stall as usize {
                        std::future::pending::<()>().await;
                    }
                    "250 taken"
                }
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 OK",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// Quoted-printable (RFC 2045, section 6.7), for ASCII.
fn decode(data: &str) -> String {
    let joined = data.replace("=\n", "");
    let mut parts = joined.split('=');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                text += &part[2..];
            }
            None => {
                text.push('=');
                text += part;
            }
        }
    }
    text
}
