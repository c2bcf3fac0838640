//! Connections: accepted until a signal, then drained.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{App, handle};
use crate::log::{self, Level};

/// What is sent to one connection too many.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 37\r\nretry-after: 1\r\nconnection: close\r\n\r\n{\"error\":\"too many open connections\"}";

/// How the connections ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request in flight was answered.
    Completely,
    /// Some were not, in the time given.
    TooLate,
}

/// Accepts connections until `stop` ends, then finishes what is in flight.
pub async fn serve(app: Arc<App>, listener: TcpListener, stop: impl Future<Output = ()>) -> Drained {
    let (tell, told) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => accept(&app, stream, told.clone()),
            Err(error) => pause_after(&error).await,
        }
    }
    app.drain();
    drop(listener);
    // Connections that are idle close at once, the others after their answer.
    tell.send_replace(true);
    drop(told);
    match timeout(app.limits.drain_timeout, tell.closed()).await {
        Ok(()) => Drained::Completely,
        Err(_) => Drained::TooLate,
    }
}

/// Waits where accepting failed for want of something that may come back.
async fn pause_after(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
        _ => {
            log::line(Level::Warn, format_args!("failed to accept a connection: {error}")).emit();
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn accept(app: &Arc<App>, stream: TcpStream, told: watch::Receiver<bool>) {
    if app.metrics.connections.value() >= app.limits.connections {
        // A fresh socket's buffer holds this; one whose does not is closed without it.
        let _ = stream.try_write(TOO_MANY);
        return;
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let _connection = app.metrics.connections.enter();
        connection(&app, stream, told).await;
    });
}

async fn connection(app: &App, stream: TcpStream, mut told: watch::Receiver<bool>) {
    // Answers are written whole, so waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(async |request| Ok::<_, Infallible>(handle(app, request).await));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(app.limits.idle_timeout)
            .max_buf_size(app.limits.header_bytes)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopped(&mut told) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        log::line(Level::Debug, format_args!("a connection ended: {error}")).emit();
    }
}

/// Ends when the server is told to stop.
async fn stopped(told: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = told.wait_for(|&stop| stop).await;
}
