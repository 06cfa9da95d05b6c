//! What `rialto dev` prints when it is ready.

use std::net::SocketAddr;

use super::demo::Account;

/// For programs: one line of JSON.
pub fn json(address: SocketAddr, accounts: &[Account]) -> String {
    serde_json::json!({
        "listen": address.to_string(),
        "rest": format!("http://{address}"),
        "grpc": address.to_string(),
        "docs": format!("http://{address}/docs"),
        "mail": format!("http://{address}/dev/mail"),
        "accounts": accounts,
    })
    .to_string()
}

/// For people.
pub fn text(address: SocketAddr, accounts: &[Account]) -> String {
    let mut text = format!(
        "\n  Rialto is ready.\n\n\
         \x20 gRPC      {address} (plaintext HTTP/2, with reflection)\n\
         \x20 gRPC-Web  http://{address}\n\
         \x20 Connect   http://{address}\n\
         \x20 REST      http://{address}/v1\n\
         \x20 docs      http://{address}/docs\n\
         \x20 health    http://{address}/health\n\
         \x20 metrics   http://{address}/metrics\n\
         \x20 mail      http://{address}/dev/mail\n\n\
         \x20 Demo accounts\n"
    );
    for account in accounts {
        text += &format!("    {:5}  {:20} {}\n", account.role, account.email, account.password);
    }
    let alice = accounts.iter().find(|account| account.role == "user");
    let (email, password) = alice.map_or(("", ""), |alice| (alice.email.as_str(), alice.password.as_str()));
    text + &format!(
        "\n  Try it\n\n\
         \x20 # log in over REST and keep the token\n\
         \x20 TOKEN=$(curl -s http://{address}/v1/auth/login -d '{{\"email\":\"{email}\",\"password\":\"{password}\"}}' \
         | sed 's/.*\"accessToken\":\"\\([^\"]*\\)\".*/\\1/')\n\n\
         \x20 # the same server over gRPC\n\
         \x20 grpcurl -plaintext -H \"authorization: Bearer $TOKEN\" {address} rialto.auth.v1.AuthService/GetMe\n\n\
         \x20 # watch a conversation, from its first message on; send to it from another terminal\n\
         \x20 ID=$(curl -s http://{address}/v1/conversations -H \"authorization: Bearer $TOKEN\" \
         | sed 's/.*\"conversations\":\\[{{\"id\":\"\\([^\"]*\\)\".*/\\1/')\n\
         \x20 curl -N \"http://{address}/v1/conversations/$ID/events?after_seq=0\" -H \"authorization: Bearer $TOKEN\" \
         -H 'accept: text/event-stream'\n\n\
         \x20 Ctrl-C stops everything; the data stays.\n"
    )
}
