//! The format of metrics: the Prometheus text format, or OpenMetrics for clients that request it.

/// A text format for metrics, as negotiated with the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpositionFormat {
    /// The Prometheus text format, version 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0. The names of counter families lack the suffix `_total`, and `# EOF` ends the text.
    OpenMetrics,
}

/// The quality value (`q`) of a media range, in thousandths: 1000 is the highest preference, and 0 means not accepted.
type Quality = u16;

impl ExpositionFormat {
    /// Negotiates the format from an `Accept` header. OpenMetrics is chosen if the header names it, in a supported
    /// version, with a quality not below that of plain text. Otherwise plain text is chosen, even if the header does
    /// not accept it.
    pub fn negotiate(accept: Option<&str>) -> ExpositionFormat {
        let media_ranges: Vec<(&str, Quality)> =
            accept.unwrap_or_default().split(',').filter_map(parse_media_range).collect();
        let quality_of = |name: &str| {
            media_ranges.iter().filter(|(range, _)| range.eq_ignore_ascii_case(name)).map(|(_, quality)| *quality).max()
        };
        let plain_quality = ["text/plain", "text/*", "*/*"].into_iter().find_map(quality_of).unwrap_or(0);
        match quality_of("application/openmetrics-text") {
            Some(openmetrics_quality) if openmetrics_quality > 0 && openmetrics_quality >= plain_quality => {
                ExpositionFormat::OpenMetrics
            }
            _ => ExpositionFormat::Plain,
        }
    }

    /// The media type with its version and character set, for the response header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            ExpositionFormat::Plain => "text/plain; version=0.0.4; charset=utf-8",
            ExpositionFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Parses a media range of an `Accept` header and its quality; `None` if the version of the format is not supported.
fn parse_media_range(text: &str) -> Option<(&str, Quality)> {
    let mut name_and_parameters = text.split(';').map(str::trim);
    let name = name_and_parameters.next()?;
    let (mut quality, mut version) = (1000, None);
    for (parameter, value) in name_and_parameters.filter_map(|part| part.split_once('=')) {
        match parameter.trim() {
            "q" => quality = parse_quality(value.trim()),
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let is_supported_version = match &name.to_ascii_lowercase()[..] {
        "application/openmetrics-text" => version.is_none_or(|version| version == "1.0.0"),
        "text/plain" => version.is_none_or(|version| version == "0.0.4"),
        _ => true,
    };
    is_supported_version.then_some((name, quality))
}

/// Parses a quality value of RFC 9110, from 0 to 1. An invalid value counts as 0.
fn parse_quality(text: &str) -> Quality {
    let quality = text.parse::<f64>().unwrap_or(0.0);
    if (0.0..=1.0).contains(&quality) { (quality * 1000.0) as Quality } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_sent_if_accepted_by_name() {
        let prometheus_2_accept = "application/openmetrics-text;version=1.0.0,\
                                   application/openmetrics-text;version=0.0.1;q=0.75,\
                                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3_accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                                   application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let quoted_version = "application/openmetrics-text; version=\"1.0.0\"";
        for accept in [
            prometheus_2_accept,
            prometheus_3_accept,
            quoted_version,
            "application/openmetrics-text",
            "*/*,application/openmetrics-text",
        ] {
            assert_eq!(ExpositionFormat::negotiate(Some(accept)), ExpositionFormat::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn plain_text_is_sent_unless_openmetrics_is_preferred() {
        assert_eq!(ExpositionFormat::negotiate(None), ExpositionFormat::Plain);
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
            assert_eq!(ExpositionFormat::negotiate(Some(accept)), ExpositionFormat::Plain, "{accept}");
        }
    }
}
