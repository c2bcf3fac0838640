//! Requests through the whole server, with backends made up for the purpose.

use std::io::Write;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::backend::{Cancel, ModelInterface, ProviderFault, RunError, ShapeSpec};
use crate::tensor::{Datatype, Tensor};

type Behaviour = Box<dyn Fn(Vec<Tensor>, &Cancel) -> Result<Vec<Tensor>, RunError> + Send + Sync>;

/// A model that gives back its one input, FP32 of any length, or does what it is told.
struct Mock {
    interface: ModelInterface,
    behaviour: Behaviour,
}

impl Backend for Mock {
    fn interface(&self) -> &ModelInterface {
        &self.interface
    }

    fn run(&self, inputs: Vec<Tensor>, _outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError> {
        (self.behaviour)(inputs, cancel)
    }
}

fn mock(behaviour: impl Fn(Vec<Tensor>, &Cancel) -> Result<Vec<Tensor>, RunError> + Send + Sync + 'static) -> Arc<Mock> {
    let spec = TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: ShapeSpec::Ranked(vec![None]) };
    let interface = ModelInterface {
        platform: "onnx_onnxv1",
        runtime: "mock".into(),
        inputs: vec![spec.clone()],
        outputs: vec![spec],
        unserved: Vec::new(),
    };
    Arc::new(Mock { interface, behaviour: Box::new(behaviour) })
}

fn loading(options: &str) -> Arc<App> {
    let text = format!(r#"{{"model_name":"m","max_concurrency":1{options}}}"#);
    let config = Config::resolve(std::path::Path::new("c"), Some(text.as_bytes()), []).expect("sound").config;
    Arc::new(App::new(&config))
}

fn app(options: &str, backend: Arc<Mock>) -> Arc<App> {
    let app = loading(options);
    app.set_backend(backend);
    app
}

fn identity() -> Arc<Mock> {
    mock(|inputs, _| Ok(inputs))
}

/// Blocks as a run does that hangs; whether it was stopped.
fn until_stopped(cancel: &Cancel, longest: Duration) -> bool {
    let (stop, stopped) = std::sync::mpsc::channel();
    let stop = move || stop.send(()).expect("still waited for");
    cancel.during(stop, || stopped.recv_timeout(longest).is_ok()).unwrap_or(true)
}

const INFER: &str = "/v2/models/m/infer";
const ONE: &str = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}"#;

async fn send(app: &App, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Answer) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Parts::from(vec![body.into()])).expect("a sound request");
    let answer = handle(app, request).await;
    (answer.status().as_u16(), answer)
}

async fn post(app: &App, body: impl Into<Bytes>) -> (u16, String) {
    let (status, answer) = send(app, "POST", INFER, &[], body).await;
    (status, String::from_utf8(answer.body().concat()).expect("text"))
}

#[tokio::test]
async fn a_panic_is_answered_and_the_server_lives_on() {
    let app = app("", mock(|inputs, _| if inputs[0].shape() == [2] { panic!("on purpose") } else { Ok(inputs) }));
    let two = ONE.replace("[1]", "[2]").replace("\"data\":[2]", "\"data\":[1,2]");
    for _ in 0..3 {
        let (status, body) = post(&app, two.clone()).await;
        assert_eq!((status, body.as_str()), (500, r#"{"error":"internal error"}"#));
        assert_eq!(post(&app, ONE).await.0, 200, "the run's place was given back");
    }
    assert_eq!(app.metrics.panics.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn failures_of_the_runtime_have_their_status() {
    for (error, expected) in [
        (RunError::Refused { message: "m".into() }, 400),
        (RunError::NotImplemented { message: "m".into() }, 501),
        (RunError::Unserved { name: "y".into(), kind: "a map".into() }, 501),
        (RunError::Failed { message: "m".into() }, 500),
        (RunError::Provider { provider: "cuda", fault: ProviderFault::Other, message: "m".into(), found: None }, 500),
        (RunError::Cancelled, 503),
    ] {
        let app = app("", mock(move |_, _| Err(error.clone())));
        let (status, body) = post(&app, ONE).await;
        assert_eq!(status, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["error"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn nothing_is_ready_before_the_model_or_after_the_stop() {
    let app = loading("");
    for path in ["/v2/health/ready", "/v2/models/m", "/v2/models/m/ready", "/ping"] {
        assert_eq!(send(&app, "GET", path, &[], "").await.0, 503, "{path}");
    }
    assert_eq!(post(&app, ONE).await.0, 503);
    assert_eq!(send(&app, "GET", "/v2/health/live", &[], "").await.0, 200);
    app.set_backend(identity());
    assert_eq!(send(&app, "GET", "/v2/health/ready", &[], "").await.0, 200);
    app.drain();
    assert_eq!(send(&app, "GET", "/v2/health/ready", &[], "").await.0, 503);
    assert_eq!(send(&app, "GET", "/v2/health/live", &[], "").await.0, 200);
}

#[tokio::test]
async fn tensorflow_servings_state_and_signatures() {
    let body = |answer: Answer| serde_json::from_slice::<serde_json::Value>(&answer.into_body().concat()).expect("JSON");
    let app = loading("");
    let state = |answer| body(answer)["model_version_status"][0]["state"].clone();
    assert_eq!(state(send(&app, "GET", "/v1/models/m", &[], "").await.1), "LOADING");
    assert_eq!(send(&app, "GET", "/v1/models/m/metadata", &[], "").await.0, 503);
    app.set_backend(identity());
    assert_eq!(state(send(&app, "GET", "/v1/models/m", &[], "").await.1), "AVAILABLE");
    let metadata = body(send(&app, "GET", "/v1/models/m/metadata", &[], "").await.1);
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["inputs"]["x"]["dtype"], "DT_FLOAT");
    assert_eq!(signature["inputs"]["x"]["tensor_shape"]["dim"][0]["size"], "-1");
    let unknown = r#"{"signature_name": "other", "instances": [1]}"#;
    let (status, answer) = send(&app, "POST", "/v1/models/m:predict", &[], unknown).await;
    assert_eq!(
        (status, body(answer)["error"].clone()),
        (400, "signature `other` is unknown, the model has `serving_default`".into())
    );
    app.drain();
    assert_eq!(state(send(&app, "GET", "/v1/models/m", &[], "").await.1), "UNLOADING");
}

#[tokio::test]
async fn paths_and_methods() {
    let app = app(r#","health_route":"/hc","predict_route":"/do""#, identity());
    for (method, path, expected) in [
        ("GET", "/v2/models/m/versions/1", 200),
        ("GET", "/v2/models/%6D", 200),
        ("HEAD", "/v2/models/m/versions/1/ready", 200),
        ("GET", "/hc", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v2/models/m/versions/2", 404),
        ("GET", "/v2/models/n", 404),
        ("GET", "/v2/models/m/config", 404),
        ("GET", "/v2/models/m/versions", 404),
        ("GET", "/v2/models/%ff", 404),
        ("GET", "/", 404),
        ("GET", "/v1/models/m", 200),
        ("GET", "/v1/models/m/versions/1", 200),
        ("GET", "/v1/models/m/versions/1/metadata", 200),
        ("GET", "/v1/models/m/versions/2", 404),
        ("GET", "/v1/models/m/labels/stable", 404),
        ("GET", "/v1/models/n/metadata", 404),
        ("GET", "/v1/models/m/versions", 404),
        ("GET", "/v1/models/m:predict", 405),
        ("POST", "/v1/models/m:classify", 501),
        ("POST", "/v1/models/m:other", 404),
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/ping", 405),
    ] {
        let (status, answer) = send(&app, method, path, &[], "").await;
        assert_eq!(status, expected, "{method} {path}");
        if status == 405 {
            assert!(answer.headers().contains_key(header::ALLOW));
        }
    }
    for path in ["/v1/models/m:predict", "/v1/models/%6d/versions/1:predict"] {
        let (status, answer) = send(&app, "POST", path, &[], r#"{"instances": [1.5, 2]}"#).await;
        assert_eq!((status, answer.into_body().concat()), (200, br#"{"predictions":[1.5,2.0]}"#.to_vec()), "{path}");
    }
    for path in [INFER, "/v2/models/m/versions/1/infer", "/invocations", "/do"] {
        assert_eq!(send(&app, "POST", path, &[], ONE).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn binary_data_go_both_ways() {
    let app = app("", identity());
    let json = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}],"parameters":{"binary_data_output":true}}"#;
    let data: Vec<u8> = [1.5_f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
    let body = [json.as_bytes(), &data].concat();
    let length = json.len().to_string();
    let media_type = format!("application/vnd.sagemaker-triton.binary+json;json-header-size={length}");
    for (header, value, framed) in [("inference-header-content-length", &length, false), ("content-type", &media_type, true)] {
        let (status, answer) = send(&app, "POST", INFER, &[(header, value)], body.clone()).await;
        assert_eq!(status, 200);
        let content_type = answer.headers()[header::CONTENT_TYPE].to_str().expect("text");
        assert_eq!(content_type.starts_with("application/vnd.sagemaker"), framed);
        let answered = answer.headers()["inference-header-content-length"].to_str().expect("text").parse::<usize>();
        let answered = answered.expect("a number");
        assert!(!framed || content_type.ends_with(&format!("={answered}")));
        assert_eq!(answer.body().concat()[answered..], data);
    }
    for bad in ["x", "-1", "", "99999999999999999999"] {
        let (status, _) = send(&app, "POST", INFER, &[("inference-header-content-length", bad)], body.clone()).await;
        assert_eq!(status, 400, "{bad}");
    }
}

#[tokio::test]
async fn numbers_that_json_lacks_are_refused_in_json() {
    let nan =
        Tensor::new(Datatype::Fp32, vec![1], crate::tensor::Elements::Fixed(Bytes::copy_from_slice(&f32::NAN.to_le_bytes())));
    let nan = nan.expect("one float");
    let app = app("", mock(move |_, _| Ok(vec![nan.clone()])));
    let (status, body) = post(&app, ONE).await;
    assert_eq!(status, 400);
    assert!(body.contains("NaN") && body.contains("binary_data"), "{body}");
}

#[tokio::test]
async fn bodies_are_decompressed_within_the_limit() {
    let app = app(r#","max_body_bytes":1000"#, identity());
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let zlib = zlib.write_all(ONE.as_bytes()).and_then(|()| zlib.finish()).expect("memory");
    let bomb = gzip(&vec![b' '; 100_000]);
    assert!(bomb.len() < 1000);
    for (encoding, body, expected) in [
        ("gzip", gzip(ONE.as_bytes()), 200),
        ("deflate", zlib, 200),
        ("identity", ONE.into(), 200),
        ("gzip", ONE.into(), 400),
        ("deflate", b"\x78\x9c\x00".to_vec(), 400),
        ("gzip", gzip(ONE.as_bytes())[..40].to_vec(), 400),
        ("gzip", bomb, 413),
        ("br", ONE.into(), 415),
        ("gzip, gzip", ONE.into(), 415),
    ] {
        let (status, _) = send(&app, "POST", INFER, &[("content-encoding", encoding)], body).await;
        assert_eq!(status, expected, "{encoding}");
    }
    assert_eq!(post(&app, vec![b' '; 1001]).await.0, 413);
}

#[tokio::test]
async fn the_queue_is_bounded_and_late_runs_are_stopped() {
    let started = Arc::new(Notify::new());
    let told = Arc::clone(&started);
    // Runs until it is stopped, as a model that hangs would.
    let backend = mock(move |_, cancel| {
        told.notify_one();
        until_stopped(cancel, Duration::from_secs(10));
        Err(RunError::Cancelled)
    });
    let app = app(r#","max_queue":1,"request_timeout_ms":300"#, backend);
    let spawn = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { post(&app, ONE).await })
    };
    let running = spawn();
    started.notified().await;
    let waiting = spawn();
    while app.metrics.queued.value() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, body) = post(&app, ONE).await;
    assert_eq!(status, 503);
    assert!(body.contains("max_queue"), "{body}");
    let (status, body) = running.await.expect("no panic");
    assert_eq!(status, 503);
    assert!(body.contains("request_timeout_ms"), "{body}");
    assert_eq!(waiting.await.expect("no panic").0, 503);
    // The place of the run that was stopped is free again.
    let _place = tokio::time::timeout(Duration::from_secs(5), app.runs.acquire()).await.expect("free").expect("open");
}

#[tokio::test]
async fn bodies_share_a_budget() {
    let app = app(r#","max_body_bytes":4096,"max_buffered_bytes":4096"#, identity());
    let _other = app.budget_for_tests(3072);
    assert_eq!(post(&app, ONE).await.0, 200);
    let (status, body) = post(&app, vec![b' '; 2000]).await;
    assert_eq!(status, 503, "{body}");
}

/// A server on a port of its own, and how to stop it.
async fn start(app: &Arc<App>) -> (std::net::SocketAddr, Arc<Notify>, tokio::task::JoinHandle<Drained>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stop = Arc::new(Notify::new());
    let wait = Arc::clone(&stop);
    let server = tokio::spawn(serve(Arc::clone(app), listener, async move { wait.notified().await }));
    (address, stop, server)
}

async fn talk(address: std::net::SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn raw_post(body: &str) -> String {
    format!("POST {INFER} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_drain_lets_requests_in_flight_end() {
    let started = Arc::new(Notify::new());
    let told = Arc::clone(&started);
    let app = app(
        "",
        mock(move |inputs, _| {
            told.notify_one();
            std::thread::sleep(Duration::from_millis(300));
            Ok(inputs)
        }),
    );
    let (address, stop, server) = start(&app).await;
    let idle = TcpStream::connect(address).await.expect("accepted");
    let in_flight = tokio::spawn(async move { talk(address, &raw_post(ONE)).await });
    started.notified().await;
    stop.notify_one();
    let answer = in_flight.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let drained = tokio::time::timeout(Duration::from_secs(5), server).await.expect("idle ones do not hold it up");
    assert_eq!(drained.expect("no panic"), Drained::Completely);
    assert!(TcpStream::connect(address).await.is_err(), "no longer listening");
    drop(idle);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let app = app(
        r#","drain_timeout_ms":100"#,
        mock(|inputs, cancel| {
            until_stopped(cancel, Duration::from_secs(2));
            Ok(inputs)
        }),
    );
    let (address, stop, server) = start(&app).await;
    tokio::spawn(async move { talk(address, &raw_post(ONE)).await });
    while app.metrics.in_flight.value() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.notify_one();
    assert_eq!(server.await.expect("no panic"), Drained::TooLate);
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_its_run() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let app = app(
        "",
        mock(move |inputs, cancel| {
            tell.lock().expect("no panic").send(until_stopped(cancel, Duration::from_secs(10))).expect("heard");
            Ok(inputs)
        }),
    );
    let (address, _stop, _server) = start(&app).await;
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    stream.write_all(raw_post(ONE).as_bytes()).await.expect("sent");
    while app.metrics.in_flight.value() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    let stopped = tokio::task::spawn_blocking(move || told.recv_timeout(Duration::from_secs(5))).await;
    assert_eq!(stopped.expect("no panic"), Ok(true));
}

#[tokio::test]
async fn heads_and_connections_are_limited() {
    let app = app(r#","max_header_bytes":8192,"max_connections":2,"idle_timeout_ms":300"#, identity());
    let (address, _stop, _server) = start(&app).await;
    let large = format!("GET /v2 HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    assert!(talk(address, &large).await.starts_with("HTTP/1.1 431"));
    assert!(talk(address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let (_first, _second) = (TcpStream::connect(address).await, TcpStream::connect(address).await);
    while app.metrics.connections.value() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = talk(address, "").await;
    let (head, body) = refused.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    // Those two say nothing, and are closed for it.
    tokio::time::timeout(Duration::from_secs(5), async {
        while app.metrics.connections.value() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("idle connections are closed");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_before_the_connection_closes() {
    let app = app(r#","max_body_bytes":1000"#, identity());
    let (address, _stop, _server) = start(&app).await;
    for text in [raw_post(&" ".repeat(3_000_000)), raw_post(&" ".repeat(3_000_000)).replace(INFER, "/nowhere")] {
        let answer = talk(address, &text).await;
        assert!(answer.starts_with("HTTP/1.1 413") || answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    }
    let chunked = format!(
        "POST {INFER} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("1000\r\n{}\r\n", " ".repeat(4096)).repeat(20)
    );
    assert!(talk(address, &chunked).await.starts_with("HTTP/1.1 413"));
    let slow = "POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 900\r\n\r\n";
    let app = super::tests::app(r#","request_timeout_ms":100"#, identity());
    let (address, _stop, _server) = start(&app).await;
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    stream.write_all(slow.as_bytes()).await.expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("answered");
    assert_eq!(&head, b"HTTP/1.1 408");
}
