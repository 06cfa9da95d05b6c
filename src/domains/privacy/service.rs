//! `rialto.privacy.v1.PrivacyService`.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::model::Export;
use super::{erasure, export};
use crate::domains::auth::Sessions;
use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller};
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire;
use crate::proto::google::api::HttpBody;
use crate::proto::rialto::privacy::v1 as contract;
use crate::proto::rialto::privacy::v1::privacy_service_server::PrivacyService as Contract;
use crate::proto::rialto::privacy::v1::{
    CancelErasureRequest, CancelErasureResponse, DownloadExportRequest, DownloadExportResponse, ExportState,
    GetExportRequest, GetExportResponse, RequestExportRequest, RequestExportResponse, RestoreUserRequest,
    RestoreUserResponse,
};

/// Chunks that wait for a client to read them.
const STREAM_BUFFER: usize = 2;

/// The service.
pub struct PrivacyService {
    app: App,
    sessions: Arc<Sessions>,
}

impl PrivacyService {
    /// The service on shared sessions.
    pub fn new(app: App, sessions: Arc<Sessions>) -> Self {
        Self { app, sessions }
    }

    /// The caller's archive, if it can be downloaded.
    async fn ready(&self, caller: &Caller) -> Result<Export, Error> {
        self.sessions.require_recent_authentication(caller).await?;
        let mut conn = self.app.db.get().await?;
        let export = Export::of(&mut conn, caller.account_id, self.app.clock.now()).await?;
        let unready = || Error::new(Reason::ExportNotReady, "there is no archive that is ready");
        export.filter(Export::is_ready).ok_or_else(unready)
    }
}

/// Sends an archive, a chunk at a time, as fast as the client reads.
async fn send(app: App, export: Export, sender: mpsc::Sender<Result<DownloadExportResponse, Status>>) {
    let mut left = export.size;
    for position in 0.. {
        if left <= 0 {
            return;
        }
        let chunk = async { export.chunk(&mut *app.db.get().await?, position).await };
        // Without its rest the archive is broken, and the client has to know.
        let gone = || Error::new(Reason::ExportNotReady, "the archive was replaced, or has expired");
        let message = match chunk.await.and_then(|chunk| chunk.ok_or_else(gone)) {
            Ok(data) => {
                left -= i64::try_from(data.len()).unwrap_or(i64::MAX);
                let content_type = if position == 0 { "application/zip".into() } else { String::new() };
                Ok(DownloadExportResponse { body: Some(HttpBody { content_type, data, extensions: Vec::new() }) })
            }
            Err(error) => Err(error.into()),
        };
        let failed = message.is_err();
        if sender.send(message).await.is_err() || failed {
            return;
        }
    }
}

/// What a download needs to know before its first byte.
fn describe(metadata: &mut MetadataMap, export: &Export) {
    let name = format!("attachment; filename=\"data-{}.zip\"", export.requested_at.format("%Y-%m-%d"));
    let texts = [("content-disposition", name), ("etag", format!("\"{}\"", export.id))];
    for (header, value) in texts {
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.insert(header, value);
        }
    }
    metadata.insert("x-content-length", export.size.into());
    metadata.insert("cache-control", MetadataValue::from_static("private, no-store"));
}

/// An archive as its owner sees it, or that there is none.
fn shown(export: Option<&Export>) -> contract::Export {
    let Some(export) = export else {
        return contract::Export { state: ExportState::None.into(), ..Default::default() };
    };
    let state = match export {
        export if export.is_ready() => ExportState::Ready,
        export if export.is_waiting() => ExportState::Waiting,
        _ => ExportState::Running,
    };
    contract::Export {
        id: export.id.to_string(),
        state: state.into(),
        files_done: export.files_done,
        files: export.files,
        percent: export.files_done.saturating_mul(100).checked_div(export.files).unwrap_or_default(),
        size_bytes: export.size,
        requested_at: Some(wire::timestamp(export.requested_at)),
        ready_at: export.ready_at.map(wire::timestamp),
        expires_at: Some(wire::timestamp(export.expires_at)),
    }
}

#[tonic::async_trait]
impl Contract for PrivacyService {
    async fn request_export(
        &self,
        request: Request<RequestExportRequest>,
    ) -> Result<Response<RequestExportResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.sessions.require_recent_authentication(&caller).await?;
        let export = export::request(&self.app, caller.account_id).await?;
        Ok(Response::new(RequestExportResponse { export: Some(shown(export.as_ref())) }))
    }

    async fn get_export(&self, request: Request<GetExportRequest>) -> Result<Response<GetExportResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let export = Export::of(&mut conn, caller.account_id, self.app.clock.now()).await?;
        Ok(Response::new(GetExportResponse { export: Some(shown(export.as_ref())) }))
    }

    type DownloadExportStream = ReceiverStream<Result<DownloadExportResponse, Status>>;

    async fn download_export(
        &self,
        request: Request<DownloadExportRequest>,
    ) -> Result<Response<Self::DownloadExportStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let export = self.ready(&caller).await?;
        tracing::info!(account = %caller.account_id, session = %caller.session_id, "an archive is downloaded");
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        let mut response = Response::new(ReceiverStream::new(receiver));
        describe(response.metadata_mut(), &export);
        tokio::spawn(send(self.app.clone(), export, sender));
        Ok(response)
    }

    async fn cancel_erasure(
        &self,
        request: Request<CancelErasureRequest>,
    ) -> Result<Response<CancelErasureResponse>, Status> {
        let account_id = erasure::cancel(&self.app, &self.sessions, &request.get_ref().token).await?;
        Ok(ActingAccount(account_id).on(CancelErasureResponse {}))
    }

    async fn restore_user(
        &self,
        request: Request<RestoreUserRequest>,
    ) -> Result<Response<RestoreUserResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("user_id", &request.get_ref().user_id)?;
        erasure::restore(&self.app, &self.sessions, &caller, id).await?;
        Ok(Response::new(RestoreUserResponse {}))
    }
}
