//! The format of metrics: Prometheus' traditional text, or OpenMetrics for clients that request it.

/// A text format for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpositionFormat {
    /// The Prometheus text format, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0: names of counter families lack `_total`, and the end of the text is marked.
    OpenMetrics,
}

/// The quality value of a media range, in thousandths.
type Quality = u16;

impl ExpositionFormat {
    /// Negotiates the format from an `Accept` header. OpenMetrics requires that it is named, in a supported version,
    /// with a quality not below that of plain text. In all other cases the result is plain text, even if it is not
    /// accepted either.
    pub fn of(accept: Option<&str>) -> ExpositionFormat {
        let ranges: Vec<(&str, Quality)> = accept.unwrap_or_default().split(',').filter_map(range).collect();
        let wish = |name: &str| {
            ranges.iter().filter(|(range, _)| range.eq_ignore_ascii_case(name)).map(|(_, wish)| *wish).max()
        };
        let plain = ["text/plain", "text/*", "*/*"].into_iter().find_map(wish).unwrap_or(0);
        match wish("application/openmetrics-text") {
            Some(open) if open > 0 && open >= plain => ExpositionFormat::OpenMetrics,
            _ => ExpositionFormat::Plain,
        }
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            ExpositionFormat::Plain => "text/plain; version=0.0.4; charset=utf-8",
            ExpositionFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Parses a media range of an `Accept` header with its quality; `None` if its version is not supported.
fn range(text: &str) -> Option<(&str, Quality)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?;
    let (mut wish, mut version) = (1000, None);
    for (parameter, value) in parts.filter_map(|part| part.split_once('=')) {
        match parameter.trim() {
            "q" => wish = thousandths(value.trim()),
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let told = match &name.to_ascii_lowercase()[..] {
        "application/openmetrics-text" => version.is_none_or(|version| version == "1.0.0"),
        "text/plain" => version.is_none_or(|version| version == "0.0.4"),
        _ => true,
    };
    told.then_some((name, wish))
}

/// Parses a quality value of RFC 9110, 0 to 1; an invalid one counts as 0.
fn thousandths(text: &str) -> Quality {
    let quality = text.parse::<f64>().unwrap_or(0.0);
    if (0.0..=1.0).contains(&quality) { (quality * 1000.0) as Quality } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_sent_if_accepted_by_name() {
        let before_3 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                        text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let since_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                       application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                       text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let quoted = "application/openmetrics-text; version=\"1.0.0\"";
        for accept in [before_3, since_3, quoted, "application/openmetrics-text", "*/*,application/openmetrics-text"] {
            assert_eq!(ExpositionFormat::of(Some(accept)), ExpositionFormat::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn plain_text_is_sent_otherwise() {
        assert_eq!(ExpositionFormat::of(None), ExpositionFormat::Plain);
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/json",
            "application/*",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nan",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0.5,text/plain",
            "application/openmetrics-text;q=0.5,text/*;q=0.6,*/*;q=0.1",
            ";;=,,q=1",
        ] {
            assert_eq!(ExpositionFormat::of(Some(accept)), ExpositionFormat::Plain, "{accept}");
        }
    }
}
