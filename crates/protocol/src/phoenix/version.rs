//! Which of the two frame formats a socket speaks.

/// The serializer that the query parameter `vsn` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// JSON objects, text frames only.
    V1,
    /// JSON arrays, and binary frames for broadcasts.
    V2,
}

/// Neither `~> 1.0.0` nor `~> 2.0.0`: the handshake is refused with 403 and an empty body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this version of the protocol is not spoken here (vsn must be 1.0.0 or 2.0.0)")]
pub struct VersionError;

impl Version {
    /// From the query parameter `vsn`. Clients that send none speak 1.0.0.
    pub fn from_vsn(vsn: Option<&str>) -> Result<Version, VersionError> {
        let Some(vsn) = vsn else {
            return Ok(Version::V1);
        };
        let (series, patch) = vsn.rsplit_once('.').ok_or(VersionError)?;
        let leading_zero = patch.len() > 1 && patch.starts_with('0');
        if patch.is_empty() || leading_zero || !patch.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(VersionError);
        }
        match series {
            "1.0" => Ok(Version::V1),
            "2.0" => Ok(Version::V2),
            _ => Err(VersionError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (vsn, expected) in [
            (None, Ok(Version::V1)),
            (Some("1.0.0"), Ok(Version::V1)),
            (Some("1.0.12"), Ok(Version::V1)),
            (Some("2.0.0"), Ok(Version::V2)),
            (Some("2.0.1"), Ok(Version::V2)),
            (Some(""), Err(VersionError)),
            (Some("2"), Err(VersionError)),
            (Some("2.0"), Err(VersionError)),
            (Some("2.0."), Err(VersionError)),
            (Some("2.0.00"), Err(VersionError)),
            (Some("2.1.0"), Err(VersionError)),
            (Some("3.0.0"), Err(VersionError)),
            (Some("2.0.x"), Err(VersionError)),
            (Some(" 2.0.0"), Err(VersionError)),
        ] {
            assert_eq!(Version::from_vsn(vsn), expected, "{vsn:?}");
        }
    }
}
