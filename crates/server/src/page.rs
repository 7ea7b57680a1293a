//! The page at `/`: one file without outside requests, held to that by its own security policy.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderName, Response, StatusCode};
use sha2::{Digest, Sha256};

use crate::http::json;

const HTML: &str = include_str!("page/index.html");

/// The page, and the sample users that it offers to sign in as.
#[derive(Debug)]
pub(crate) struct Page {
    users: serde_json::Value,
    policy: String,
}

/// Why the page can't offer the sample users.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("sample_users_file can't be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("sample_users_file is no JSON object with a list `users` (line {})", .0.line())]
    Json(#[from] serde_json::Error),
}

impl Page {
    /// `sample_users`: a JSON file `{"users":[{"name":…,"token":…}]}`. Its tokens are shown to
    /// everybody who opens the page, so it is for trying things out only.
    pub(crate) fn new(sample_users: Option<&Path>) -> Result<Page, PageError> {
        let users = match sample_users {
            Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
            None => serde_json::json!({ "users": [] }),
        };
        Ok(Page {
            users,
            policy: policy(HTML),
        })
    }

    pub(crate) fn html(&self) -> Response<String> {
        let mut reply = Response::new(HTML.to_owned());
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, &self.policy),
            (CACHE_CONTROL, "no-cache"),
            (HeaderName::from_static("x-content-type-options"), "nosniff"),
            (HeaderName::from_static("referrer-policy"), "no-referrer"),
        ] {
            reply
                .headers_mut()
                .insert(name, value.parse().expect("plain ASCII"));
        }
        reply
    }

    pub(crate) fn users(&self) -> Response<String> {
        let mut reply = json(StatusCode::OK, &self.users);
        reply
            .headers_mut()
            .insert(CACHE_CONTROL, "no-store".parse().expect("plain ASCII"));
        reply
    }
}

/// Allows the page's own script and style by their hashes, and nothing else.
fn policy(html: &str) -> String {
    let hash = |element| match inner(html, element) {
        Some(text) => format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))),
        None => "'none'".to_owned(),
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
}

/// The text of the first `<element>`.
fn inner<'a>(html: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = html.split_once(&format!("<{element}>"))?;
    rest.split_once(&format!("</{element}>"))
        .map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_that_its_policy_names() {
        for element in ["script", "style"] {
            assert_eq!(HTML.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(
                inner(HTML, element).is_some_and(|text| !text.trim().is_empty()),
                "{element}"
            );
        }
        assert_eq!(policy(HTML).matches("sha256-").count(), 2);
        // A namespace is a name, nothing is fetched from there.
        let html = HTML.replace("xmlns='http://www.w3.org/2000/svg'", "");
        for outside in [
            "http://", "https://", " src=", "@import", "style=\"", "onclick=",
        ] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
