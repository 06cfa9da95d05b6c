//! Reads the contract of a running server by server reflection (grpc.reflection.v1, or v1alpha, which is the same on the
//! wire).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::descriptors::Files;
use super::upstream::Upstream;

const METHODS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Services that are about the server itself.
const OWN: [&str; 3] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"];
/// More files than this is not a contract.
const MOST_FILES: usize = 10_000;
/// The largest answer. Descriptors with comments are large; tonic's own limit is 4 MiB.
const MOST_BYTES: usize = 64 << 20;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the first failure; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Reads every upstream, each for its own services, and waits for those that are not there yet, for so long. Returns the
/// names of the services.
pub async fn read(upstreams: &[Upstream], patience: Duration, files: &mut Files) -> anyhow::Result<BTreeSet<String>> {
    let deadline = Instant::now() + patience;
    let mut services = BTreeSet::new();
    for upstream in upstreams {
        let source = format!("upstream {}", upstream.name());
        let mut pause = PAUSE;
        let found = loop {
            let error = match one(upstream, upstreams, files, &source).await {
                Ok(found) => break found,
                Err(error) => error.context(source.clone()),
            };
            let may_pass = error.downcast_ref::<Status>().is_some_and(|status| {
                matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled)
            });
            if !may_pass || Instant::now() + pause > deadline {
                return Err(error);
            }
            tracing::warn!(error = format!("{error:#}"), "the contract can't be read yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        services.extend(found);
    }
    Ok(services)
}

/// One attempt at one upstream.
async fn one(
    upstream: &Upstream,
    all: &[Upstream],
    files: &mut Files,
    source: &str,
) -> anyhow::Result<BTreeSet<String>> {
    let mut conversation = None;
    for method in METHODS {
        let mut open = Conversation::new(upstream.channel(), method);
        match open.ask(MessageRequest::ListServices(String::new())).await {
            Ok(MessageResponse::ListServicesResponse(list)) => {
                conversation = Some((open, list));
                break;
            }
            Ok(_) => bail!("it answered something else than a list of services"),
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(status.into()),
        }
    }
    let Some((mut conversation, list)) = conversation else {
        bail!("it does not serve reflection: use --descriptor-set");
    };
    let listed = list.service.into_iter().map(|service| service.name).filter(|name| !OWN.contains(&name.as_str()));
    let listed: BTreeSet<String> = listed.collect();
    let wanted: BTreeSet<String> = match upstream.service() {
        Some(service) => {
            ensure!(listed.contains(service), "it does not have the service {service}");
            BTreeSet::from([service.to_owned()])
        }
        None => listed.into_iter().filter(|name| !all.iter().any(|other| other.service() == Some(name))).collect(),
    };
    for service in &wanted {
        let answer = conversation.ask(MessageRequest::FileContainingSymbol(service.clone())).await;
        add(answer.with_context(|| service.clone())?, source, files, &mut conversation).await?;
    }
    Ok(wanted)
}

/// Adds the files of an answer, and what they import.
async fn add(
    answer: MessageResponse,
    source: &str,
    files: &mut Files,
    conversation: &mut Conversation,
) -> anyhow::Result<()> {
    let mut answer = answer;
    let mut wanted: Vec<String> = Vec::new();
    loop {
        let MessageResponse::FileDescriptorResponse(found) = answer else {
            bail!("it answered something else than files");
        };
        for bytes in found.file_descriptor_proto {
            let name = files.add(bytes, source)?;
            ensure!(files.len() <= MOST_FILES, "more than {MOST_FILES} files");
            wanted.extend(files.imports(&name).into_iter().flatten().cloned());
        }
        wanted.retain(|name| files.imports(name).is_none());
        let Some(next) = wanted.pop() else { return Ok(()) };
        let file = conversation.ask(MessageRequest::FileByFilename(next.clone())).await;
        answer = file.with_context(|| format!("import {next}"))?;
    }
}

/// Questions and answers on one stream.
struct Conversation {
    grpc: Grpc<Channel>,
    method: &'static str,
    stream: Option<(mpsc::Sender<ServerReflectionRequest>, Streaming<ServerReflectionResponse>)>,
}

impl Conversation {
    fn new(channel: Channel, method: &'static str) -> Self {
        Self { grpc: Grpc::new(channel).max_decoding_message_size(MOST_BYTES), method, stream: None }
    }

    async fn ask(&mut self, question: MessageRequest) -> Result<MessageResponse, Status> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(question)).await;
        let answer = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
        match answer {
            // The codes of gRPC.
            MessageResponse::ErrorResponse(error) => Err(Status::new(error.error_code.into(), error.error_message)),
            answer => Ok(answer),
        }
    }

    async fn exchange(&mut self, question: MessageRequest) -> Result<MessageResponse, Status> {
        let question = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let ended = || Status::unavailable("the stream ended");
        if let Some((questions, answers)) = &mut self.stream {
            questions.send(question).await.map_err(|_| ended())?;
            return answers.message().await?.and_then(|answer| answer.message_response).ok_or_else(ended);
        }
        // Some servers send the head only with the first answer, so the first question goes along.
        let (questions, receiver) = mpsc::channel(1);
        questions.send(question).await.map_err(|_| ended())?;
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let path = PathAndQuery::from_static(self.method);
        self.grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let request = Request::new(ReceiverStream::new(receiver));
        let mut answers = self.grpc.streaming(request, path, codec).await?.into_inner();
        let answer = answers.message().await?.and_then(|answer| answer.message_response).ok_or_else(ended)?;
        self.stream = Some((questions, answers));
        Ok(answer)
    }
}
