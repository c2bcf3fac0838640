//! Following a container of an engine: its output and its end, on a thread of its own.

use std::sync::mpsc::Sender;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::{AttachContainerOptionsBuilder, WaitContainerOptions};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::Endpoint;
use crate::runner::ExitStatus;
use crate::runner::log::{Lines, Log, Stream};
use crate::runner::state::State;

/// Seconds a container may run: an engine may keep the answer back until it ends.
const TIMEOUT: u64 = 365 * 24 * 3600;
/// How long output may take to arrive after the end.
const DRAIN: Duration = Duration::from_secs(5);

/// What follows one container.
pub(super) struct Follower {
    pub endpoint: Endpoint,
    pub id: String,
    pub log: Log,
    pub ended: State<Result<ExitStatus, String>>,
}

impl Follower {
    /// Attaches, says so, reads until the container has ended, then tells how. Ends early if the container is never started.
    pub fn run(self, attached: &Sender<Result<(), EngineError>>, started: oneshot::Receiver<()>) {
        let ended = self.ended.clone();
        let log = self.log.clone();
        let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.follow(attached, started)),
            Err(error) => Err(error.to_string()),
        };
        log.close();
        ended.set(outcome);
    }

    async fn follow(
        self,
        attached: &Sender<Result<(), EngineError>>,
        started: oneshot::Receiver<()>,
    ) -> Result<ExitStatus, String> {
        let gone = "the container was never started".to_owned();
        let client = match self.endpoint.connect(TIMEOUT).await {
            Ok(client) => client,
            Err(error) => {
                // Where nobody listens any more, nobody needs to know.
                let _ = attached.send(Err(error));
                return Err(gone);
            }
        };
        let options = AttachContainerOptionsBuilder::default().stream(true).stdout(true).stderr(true).build();
        let mut output = match client.attach_container(&self.id, Some(options)).await {
            Ok(streams) => streams.output,
            Err(error) => {
                let _ = attached.send(Err(error));
                return Err(gone);
            }
        };
        let _ = attached.send(Ok(()));
        let log = self.log.clone();
        let reading = std::pin::pin!(async move {
            let mut lines = (Lines::new(log.clone(), Stream::Stdout), Lines::new(log, Stream::Stderr));
            while let Some(Ok(piece)) = output.next().await {
                match piece {
                    LogOutput::StdOut { message } | LogOutput::Console { message } => lines.0.take(&message),
                    LogOutput::StdErr { message } => lines.1.take(&message),
                    LogOutput::StdIn { .. } => {}
                }
            }
        });
        let waiting = std::pin::pin!(async {
            started.await.map_err(|_| gone)?;
            wait(&client, &self.id).await
        });
        match select(reading, waiting).await {
            Either::Left(((), waiting)) => waiting.await,
            Either::Right((status, reading)) => {
                if status.is_ok() {
                    // A line that has not come by then is lost; the end is what matters.
                    let _ = tokio::time::timeout(DRAIN, reading).await;
                }
                status
            }
        }
    }
}

/// Waits until the container has ended.
async fn wait(client: &Client, id: &str) -> Result<ExitStatus, String> {
    let mut answers = client.wait_container(id, None::<WaitContainerOptions>);
    let code = match answers.next().await {
        Some(Ok(answer)) => Some(answer.status_code),
        Some(Err(EngineError::DockerContainerWaitError { code, .. })) => Some(code),
        Some(Err(error)) => return Err(format!("the engine lost the container: {error}")),
        None => None,
    };
    let details = client.inspect_container(id, None).await.ok().and_then(|details| details.state);
    let code = code.or_else(|| details.as_ref().and_then(|state| state.exit_code)).and_then(|code| i32::try_from(code).ok());
    let out_of_memory = details.and_then(|state| state.oom_killed).unwrap_or(false);
    Ok(ExitStatus { code, signal: None, out_of_memory })
}
