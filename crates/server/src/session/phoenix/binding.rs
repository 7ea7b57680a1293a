//! From a client's wish for changes to what the pipeline is asked for.

use std::sync::Arc;

use walcast_hub::{Filter, Spec, Target};
use walcast_protocol::phoenix::{Binding, BindingError, System, Wanted};
use walcast_rls::{Access, AccessError, Denial, Viewer};

/// A wish that can't be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unable {
    /// By nobody's doing but the client's, or the database's owner's.
    Never(System),
    /// It may be fulfilled by and by.
    Later,
}

/// Where frames go, and how they are written.
#[derive(Clone, Debug)]
pub(super) struct Label {
    /// With `realtime:`.
    pub(super) topic: Arc<str>,
    pub(super) format: u8,
}

/// What a binding means for `viewer`: a subscription, or one for each schema that is published.
pub(super) async fn specs(
    access: &Access,
    viewer: &Viewer,
    binding: &Binding,
    label: &Label,
) -> Result<Vec<Arc<Spec>>, Unable> {
    let malformed = |error| Unable::Never(System::Malformed(error));
    let wanted = binding.wanted.as_ref();
    let wanted = wanted.map_err(|error| malformed(error.clone()))?;
    let filter = wanted.filter.as_deref().map(Filter::parse).transpose();
    let filter = filter.map_err(|error| {
        let reason = error.to_string();
        malformed(BindingError::Filter { reason })
    })?;
    let schemas = match &wanted.schema {
        Some(schema) => vec![schema.clone()],
        None => {
            let schemas = access.schemas(viewer).await;
            schemas.map_err(|error| unable(error, wanted, filter.as_ref()))?
        }
    };
    let mut specs = Vec::new();
    for schema in schemas {
        let granted = granted(access, viewer, &schema, wanted, filter.as_ref()).await;
        granted?;
        specs.push(Arc::new(Spec {
            target: Target {
                schema: schema.into(),
                table: wanted.table.as_deref().map(Into::into),
            },
            events: wanted.events,
            filter: filter.clone(),
            channel: label.topic.clone(),
            format: label.format,
            tag: binding.id,
            columns: wanted.select.as_ref().map(|columns| {
                let columns = columns.iter().map(|column| column.as_str().into());
                columns.collect()
            }),
        }));
    }
    match specs.is_empty() {
        true => Err(Unable::Never(System::NotEnabled {
            params: params(wanted),
        })),
        false => Ok(specs),
    }
}

async fn granted(
    access: &Access,
    viewer: &Viewer,
    schema: &str,
    wanted: &Wanted,
    filter: Option<&Filter>,
) -> Result<(), Unable> {
    let asked = filter.into_iter().flat_map(Filter::columns);
    let mut asked: Vec<&str> = asked.map(|column| &**column).collect();
    let of_filter = asked.len();
    asked.extend(wanted.select.iter().flatten().map(String::as_str));
    let types = match &wanted.table {
        Some(table) => access.table(viewer, schema, table, &asked).await,
        None => access.schema(viewer, schema).await,
    };
    let types = types.map_err(|error| unable(error, wanted, filter))?;
    let Some(filter) = filter else { return Ok(()) };
    let checked = filter.check(types.get(..of_filter).unwrap_or(&types));
    checked.map_err(|error| {
        Unable::Never(System::NotFitting {
            params: params(wanted),
            reason: error.to_string(),
        })
    })
}

fn unable(error: AccessError, wanted: &Wanted, filter: Option<&Filter>) -> Unable {
    let params = params(wanted);
    match error {
        AccessError::Denied(Denial::FilterColumn) => {
            let of_filter = filter.into_iter().flat_map(Filter::columns);
            let mut names: Vec<&str> = of_filter.map(|name| &**name).collect();
            let kind = match names.is_empty() {
                true => "select",
                false => "filter",
            };
            names.extend(wanted.select.iter().flatten().map(String::as_str));
            Unable::Never(System::NotFitting {
                params,
                reason: format!("invalid column for {kind} {}", names.join(", ")),
            })
        }
        AccessError::Denied(_) => Unable::Never(System::NotEnabled { params }),
        _ => Unable::Later,
    }
}

/// As their errors name a wish.
fn params(wanted: &Wanted) -> String {
    use walcast_hub::Events;
    let event = match wanted.events {
        Events::INSERT => "INSERT",
        Events::UPDATE => "UPDATE",
        Events::DELETE => "DELETE",
        _ => "*",
    };
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
    let select = match &wanted.select {
        Some(columns) => format!("{columns:?}"),
        None => "nil".to_owned(),
    };
    format!(
        "event: {event}, schema: {}, table: {}, filters: [{}], select: {select}",
        any(&wanted.schema),
        any(&wanted.table),
        wanted.filter.as_deref().unwrap_or_default(),
    )
}
