//! HdrHistogram interval logs: what `histograms/*.hlog` hold, written and read.
//!
//! The format is the V2 interval log of the public HdrHistogram tools. Every interval carries a tag, so their log
//! processor needs `-allTags` (or `-tag rep-0` for one repetition).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use std::time::{Duration, SystemTime};

/// One interval of a log: usually one repetition.
#[derive(Clone, Copy, Debug)]
pub struct TaggedHistogram<'a> {
    /// Letters, digits, `-` and `_`; other characters become `-`.
    pub tag: &'a str,
    /// When recording began.
    pub start: SystemTime,
    /// How long it went on.
    pub duration: Duration,
    /// Values in ns.
    pub histogram: &'a Histogram<u64>,
}

/// The interval log format.
#[derive(Debug)]
pub struct HistogramLog;

impl HistogramLog {
    /// The bytes of a log with these intervals, in the order of their start.
    ///
    /// # Errors
    /// A text when a histogram cannot be serialized.
    pub fn encode(intervals: &[TaggedHistogram<'_>]) -> Result<Vec<u8>, String> {
        let mut intervals = intervals.to_vec();
        intervals.sort_by_key(|interval| interval.start);
        let base = intervals.first().map_or(SystemTime::UNIX_EPOCH, |interval| interval.start);
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("Values are nanoseconds; one tagged interval per repetition.")
            .with_start_time(base)
            .with_base_time(base)
            .begin_log_with(&mut bytes, &mut serializer)
            .map_err(|error| error.to_string())?;
        for interval in &intervals {
            let tag = plain_tag(interval.tag);
            let since = interval.start.duration_since(base).unwrap_or_default();
            log.write_histogram(interval.histogram, since, interval.duration, Tag::new(&tag))
                .map_err(|error| error.to_string())?;
        }
        Ok(bytes)
    }

    /// The tags and histograms of a log.
    ///
    /// # Errors
    /// A text that names the interval which is not whole.
    pub fn decode(bytes: &[u8]) -> Result<Vec<(String, Histogram<u64>)>, String> {
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(bytes) {
            let entry = entry.map_err(|error| format!("interval {}: {error:?}", found.len()))?;
            if let LogEntry::Interval(interval) = entry {
                let raw = BASE64
                    .decode(interval.encoded_histogram())
                    .map_err(|error| format!("interval {}: {error}", found.len()))?;
                let histogram = hdrhistogram::serialization::Deserializer::new()
                    .deserialize(&mut raw.as_slice())
                    .map_err(|error| format!("interval {}: {error}", found.len()))?;
                found.push((interval.tag().map_or("", |tag| tag.as_str()).to_owned(), histogram));
            }
        }
        Ok(found)
    }
}

fn plain_tag(tag: &str) -> String {
    tag.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_back_its_tags_and_quantiles() {
        let histogram = |scale: u64| {
            let mut histogram = Histogram::<u64>::new(3).unwrap();
            (1..=1000u64).for_each(|n| histogram.record(n * scale).unwrap());
            histogram
        };
        let (first, second) = (histogram(100), histogram(1000));
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let interval = |tag, seconds, histogram| TaggedHistogram {
            tag,
            start: start + Duration::from_secs(seconds),
            duration: Duration::from_secs(5),
            histogram,
        };
        // Given out of order and with a tag that the format could not hold.
        let bytes =
            HistogramLog::encode(&[interval("rep 1,x", 5, &second), interval("rep-0", 0, &first)]).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
        assert!(text.contains("\nTag=rep-0,0.000,5.000,"), "{text}");
        let back = HistogramLog::decode(&bytes).unwrap();
        assert_eq!(back.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), ["rep-0", "rep-1-x"]);
        assert_eq!(back[0].1.value_at_quantile(0.99), first.value_at_quantile(0.99));
        assert_eq!(back[1].1.len(), 1000);
    }

    #[test]
    fn a_log_that_was_cut_is_refused() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..50_000u64).for_each(|n| histogram.record(n * n).unwrap());
        let whole = TaggedHistogram {
            tag: "rep-0",
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(1),
            histogram: &histogram,
        };
        let bytes = HistogramLog::encode(&[whole]).unwrap();
        assert!(HistogramLog::decode(&bytes[..bytes.len() / 2]).is_err());
    }
}
