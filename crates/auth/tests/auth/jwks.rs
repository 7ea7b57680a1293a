use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use walcast_auth::{AuthError, JwksConfig, JwksStatus, KeyConfig, Verifier, refresh_jwks};

use crate::tokens::{OTHER_SECRET, SECRET, b64, config, encoding_key, sign};

const DEADLINE: Duration = Duration::from_secs(90);
const FOREVER: &str = r#"{"role":"authenticated","exp":253402300799}"#;

/// What the key server says next.
#[derive(Clone)]
enum Answer {
    Text(String),
    Status(u16),
    /// Takes the request and never answers.
    Silence,
    /// A redirect to itself.
    Redirect,
    /// 10 MB.
    Flood,
}

struct KeyServer {
    url: String,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl KeyServer {
    async fn start(first: Answer) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = KeyServer {
            url: format!("http://{}/jwks.json", listener.local_addr().expect("bound")),
            answer: Arc::new(Mutex::new(first)),
            requests: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (answer, requests) = (server.answer.clone(), server.requests.clone());
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                requests.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answer.lock().clone()));
            }
        };
        tokio::spawn(server.stop.clone().run_until_cancelled_owned(accept));
        server
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: tokio::net::TcpStream, answer: Answer) {
    let _ = stream.read(&mut [0; 2048]).await;
    let (status, body, more) = match answer {
        Answer::Text(body) => (200, body, ""),
        Answer::Status(status) => (status, "{}".into(), ""),
        Answer::Redirect => (302, String::new(), "location: /jwks.json\r\n"),
        Answer::Flood => (200, " ".repeat(10 << 20), ""),
        Answer::Silence => {
            let _ = stream.read(&mut [0; 1]).await;
            return;
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
}

fn jwk(name: &str, kid: &str, algorithm: Algorithm) -> String {
    let key = Jwk::from_encoding_key(&encoding_key(name), algorithm).expect("a good key");
    let mut value = serde_json::to_value(key).expect("a JWK");
    value["kid"] = kid.into();
    value.to_string()
}

fn set(keys: &[String]) -> Answer {
    Answer::Text(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
}

fn rsa(kid: &str) -> String {
    jwk("rsa", kid, Algorithm::RS256)
}

fn p256(kid: &str) -> String {
    jwk("p256", kid, Algorithm::ES256)
}

fn token(name: &str, kid: &str, algorithm: Algorithm) -> String {
    let header = format!(r#"{{"alg":"{algorithm:?}","kid":"{kid}"}}"#);
    sign(&header, FOREVER, &encoding_key(name), algorithm)
}

struct Running {
    verifier: Arc<Verifier>,
    _stop: tokio_util::sync::DropGuard,
}

/// A verifier with its refresh task; asked for unknown keys at most once per `unknown_key_interval`.
fn run(
    url: &str,
    secret: Option<&str>,
    unknown_key_interval: Duration,
    refresh: Duration,
    timeout: Duration,
) -> Running {
    let jwks = JwksConfig {
        url: Some(url.into()),
        refresh_interval: refresh,
        unknown_key_interval,
        timeout,
        ..JwksConfig::default()
    };
    let keys = KeyConfig {
        secret: secret.map(Into::into),
        jwks: Some(jwks),
        ..KeyConfig::default()
    };
    let verifier = Arc::new(Verifier::new(config(keys)).expect("a good configuration"));
    let stop = CancellationToken::new();
    tokio::spawn(refresh_jwks(verifier.clone(), stop.clone()));
    Running {
        verifier,
        _stop: stop.drop_guard(),
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);
/// For an answer that comes.
const PATIENT: Duration = Duration::from_secs(60);
/// For one that never comes; another one is asked for again.
const IMPATIENT: Duration = Duration::from_secs(1);

async fn status(verifier: &Verifier, until: impl FnMut(&JwksStatus) -> bool) -> JwksStatus {
    let mut status = verifier.jwks_status().expect("configured");
    let found = tokio::time::timeout(DEADLINE, status.wait_for(until)).await;
    found.expect("in time").expect("the verifier lives").clone()
}

#[tokio::test]
async fn keys_are_known_after_the_first_read_and_not_before() {
    let server = KeyServer::start(set(&[rsa("a"), p256("b")])).await;
    let idle = Verifier::new(config(KeyConfig {
        jwks: Some(JwksConfig {
            url: Some(server.url.clone()),
            ..JwksConfig::default()
        }),
        ..KeyConfig::default()
    }));
    let token_a = token("rsa", "a", Algorithm::RS256);
    assert_eq!(
        idle.expect("good").verify(&token_a),
        Err(AuthError::KeysUnavailable)
    );

    let running = run(&server.url, None, HOUR, HOUR, PATIENT);
    let read = status(&running.verifier, |s| s.attempts > 0).await;
    assert_eq!((read.keys, read.last_error), (2, None));
    let cases = [
        (token_a, Ok(())),
        (token("p256", "b", Algorithm::ES256), Ok(())),
        (
            token("rsa", "b", Algorithm::RS256),
            Err(AuthError::Algorithm),
        ),
        (
            token("other-rsa", "a", Algorithm::RS256),
            Err(AuthError::Signature),
        ),
        // The key says RS256: PS256, though RSA can do it, is not accepted.
        (
            token("rsa", "a", Algorithm::PS256),
            Err(AuthError::Algorithm),
        ),
        (
            token("rsa", "nobody", Algorithm::RS256),
            Err(AuthError::UnknownKey),
        ),
        (
            sign(
                r#"{"alg":"ES256"}"#,
                FOREVER,
                &encoding_key("p256"),
                Algorithm::ES256,
            ),
            Ok(()),
        ),
        (
            sign(
                r#"{"alg":"RS256"}"#,
                FOREVER,
                &encoding_key("other-rsa"),
                Algorithm::RS256,
            ),
            Err(AuthError::Signature),
        ),
        (
            sign(
                r#"{"alg":"EdDSA"}"#,
                FOREVER,
                &encoding_key("ed25519"),
                Algorithm::EdDSA,
            ),
            Err(AuthError::Algorithm),
        ),
    ];
    for (index, (token, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            running.verifier.verify(&token).map(|_| ()),
            expected,
            "{index}"
        );
    }
}

#[tokio::test]
async fn a_rotation_is_followed_and_vanished_keys_are_refused() {
    let server = KeyServer::start(set(&[rsa("a")])).await;
    let running = run(&server.url, None, HOUR, SHORT, PATIENT);
    let verifier = &running.verifier;
    let (old, new) = (
        token("rsa", "a", Algorithm::RS256),
        token("p256", "b", Algorithm::ES256),
    );
    status(verifier, |s| s.keys == 1).await;
    let holder = verifier.verify(&old).expect("the first key");
    let mut changed = verifier.keys_changed();
    changed.mark_unchanged();

    server.set(set(&[p256("b")]));
    tokio::time::timeout(DEADLINE, changed.changed())
        .await
        .expect("in time")
        .expect("alive");
    assert!(verifier.verify(&new).is_ok());
    assert_eq!(verifier.verify(&old), Err(AuthError::UnknownKey));
    assert!(!verifier.trusts(&holder));
}

#[tokio::test]
async fn the_first_token_after_a_rotation_works() {
    let server = KeyServer::start(set(&[rsa("a")])).await;
    let running = run(&server.url, None, SHORT, HOUR, PATIENT);
    let verifier = &running.verifier;
    status(verifier, |s| s.attempts == 1).await;
    server.set(set(&[rsa("a"), p256("b")]));
    let new = token("p256", "b", Algorithm::ES256);
    // Until the interval since the first read is over, no reading may be asked for.
    let accepted = async {
        while verifier.verify_fresh(&new).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, accepted)
        .await
        .expect("in time");
    assert_eq!(status(verifier, |_| true).await.attempts, 2);
}

#[tokio::test]
async fn a_thousand_unknown_keys_cost_one_request() {
    let server = KeyServer::start(set(&[rsa("a")])).await;
    let running = run(&server.url, None, HOUR, HOUR, PATIENT);
    let verifier = &running.verifier;
    status(verifier, |s| s.attempts == 1).await;
    for n in 0..1000 {
        let forged = format!(
            "{}.{}.AAAA",
            b64(format!(r#"{{"alg":"RS256","kid":"k{n}"}}"#)),
            b64(FOREVER)
        );
        assert_eq!(verifier.verify(&forged), Err(AuthError::UnknownKey));
        assert_eq!(
            verifier.verify_fresh(&forged).await,
            Err(AuthError::UnknownKey)
        );
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn nonsense_leaves_the_keys_from_before_in_use() {
    let server = KeyServer::start(set(&[rsa("a")])).await;
    let running = run(&server.url, None, HOUR, SHORT, IMPATIENT);
    let verifier = &running.verifier;
    let good = token("rsa", "a", Algorithm::RS256);
    status(verifier, |s| s.keys == 1).await;
    let cases: Vec<(Answer, &str)> = vec![
        (
            Answer::Text("<!doctype html><title>Log in</title>".into()),
            "not a JWK set",
        ),
        (Answer::Text(String::new()), "not a JWK set"),
        (Answer::Status(500), "status 500"),
        (Answer::Status(404), "status 404"),
        (Answer::Redirect, "status 302"),
        (Answer::Flood, "longer than 1 MiB"),
        (Answer::Silence, "no answer within"),
    ];
    for (answer, expected) in cases {
        server.set(answer);
        let is_it = |s: &JwksStatus| s.last_error.as_ref().is_some_and(|e| e.contains(expected));
        status(verifier, is_it).await;
        assert!(verifier.verify(&good).is_ok(), "{expected}");
    }
    server.set(set(&[rsa("a")]));
    assert_eq!(status(verifier, |s| s.last_error.is_none()).await.keys, 1);
}

#[tokio::test]
async fn a_server_that_is_down_is_no_obstacle_to_the_secret() {
    // Nobody listens there, and nobody else gets the port.
    let place = tokio::net::TcpSocket::new_v4().expect("a socket");
    let any = "127.0.0.1:0".parse().expect("an address");
    place.bind(any).expect("a free port");
    let url = format!("http://{}/jwks.json", place.local_addr().expect("bound"));
    let running = run(&url, Some(SECRET), HOUR, HOUR, PATIENT);
    let verifier = &running.verifier;
    status(verifier, |s| s.failures > 0).await;
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let good = sign(
        r#"{"alg":"HS256","kid":"whatever"}"#,
        FOREVER,
        &key,
        Algorithm::HS256,
    );
    assert!(verifier.verify(&good).is_ok());
    let of_jwks = token("rsa", "a", Algorithm::RS256);
    assert_eq!(verifier.verify(&of_jwks), Err(AuthError::KeysUnavailable));
}

#[tokio::test]
async fn a_file_may_hold_symmetric_keys_an_address_may_not() {
    let oct = format!(
        r#"{{"kty":"oct","kid":"s","alg":"HS256","k":"{}"}}"#,
        b64(OTHER_SECRET)
    );
    let server = KeyServer::start(set(&[oct.clone(), rsa("a")])).await;
    let key = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let token = sign(
        r#"{"alg":"HS256","kid":"s"}"#,
        FOREVER,
        &key,
        Algorithm::HS256,
    );

    let running = run(&server.url, None, HOUR, HOUR, PATIENT);
    assert_eq!(status(&running.verifier, |s| s.attempts > 0).await.keys, 1);
    assert_eq!(running.verifier.verify(&token), Err(AuthError::UnknownKey));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keys.json");
    let write = |text: String| std::fs::write(&path, text).expect("a file");
    write(format!(r#"{{"keys":[{oct}]}}"#));
    let jwks = JwksConfig {
        file: Some(path.clone()),
        refresh_interval: SHORT,
        ..JwksConfig::default()
    };
    let keys = KeyConfig {
        jwks: Some(jwks),
        ..KeyConfig::default()
    };
    let verifier = Arc::new(Verifier::new(config(keys.clone())).expect("a good file"));
    assert!(verifier.verify(&token).is_ok(), "a file is read at start");

    let stop = CancellationToken::new();
    let task = tokio::spawn(refresh_jwks(verifier.clone(), stop.clone()));
    let mut changed = verifier.keys_changed();
    write(format!(r#"{{"keys":[{}]}}"#, rsa("a")));
    tokio::time::timeout(DEADLINE, changed.changed())
        .await
        .expect("in time")
        .expect("alive");
    assert_eq!(verifier.verify(&token), Err(AuthError::UnknownKey));
    stop.cancel();
    tokio::time::timeout(DEADLINE, task)
        .await
        .expect("stops")
        .expect("no panic");

    for (text, expected) in [
        ("nonsense", "is not a JWK set"),
        (r#"{"keys":[]}"#, "holds no key"),
    ] {
        write(text.into());
        let error = Verifier::new(config(keys.clone()))
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::remove_file(&path).expect("it was there");
    assert!(Verifier::new(config(keys)).is_err());
}
