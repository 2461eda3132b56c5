//! Metrics and their samples, encoded.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};

use crate::metric::Metric;

/// A page of metrics that is being written.
pub struct Page<'a>(DescriptorEncoder<'a>);

/// A metric, and where its figure is in what shared memory has.
pub type Figure<'m, T> = (&'m Metric, fn(&T) -> u64);

/// The labels of a sample: names, and as many values.
struct Labels<'a, S> {
    names: &'a [&'a str],
    values: &'a [S],
}

impl<S: AsRef<str>> EncodeLabelSet for Labels<'_, S> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut labels = self.names.iter().zip(self.values);
        labels.try_for_each(|(name, value)| (*name, value.as_ref()).encode(encoder.encode_label()))
    }
}

impl<'a> Page<'a> {
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Adds a counter: values of its labels, in their order, and how far it is.
    pub fn count<const N: usize, S: AsRef<str>>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([S; N], u64)>,
    ) -> fmt::Result {
        self.add(metric, samples, |sample, count| {
            sample.encode_counter::<NoLabelSet, u64, u64>(&count, None)
        })
    }

    /// Adds a gauge in the same way.
    pub fn gauge<const N: usize, S: AsRef<str>>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([S; N], f64)>,
    ) -> fmt::Result {
        self.add(metric, samples, |sample, value| sample.encode_gauge(&value))
    }

    /// Adds a gauge of what is so (1) or is not (0).
    pub fn flag<const N: usize, S: AsRef<str>>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([S; N], bool)>,
    ) -> fmt::Result {
        self.add(metric, samples, |sample, is| sample.encode_gauge(&u32::from(is)))
    }

    /// Adds what has only labels.
    pub fn info<const N: usize, S: AsRef<str>>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = [S; N]>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.descriptor(metric)?;
        samples.try_for_each(|values| {
            encoder.encode_info(&Labels { names: metric.labels, values: &values })
        })
    }

    /// What has no samples is left out.
    fn add<const N: usize, S: AsRef<str>, V>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = ([S; N], V)>,
        encode: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        debug_assert_eq!(N, metric.labels.len(), "{}", metric.name);
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.descriptor(metric)?;
        samples.try_for_each(|(values, value)| {
            if N == 0 {
                return encode(&mut encoder, value);
            }
            let labels = Labels { names: metric.labels, values: &values };
            encode(&mut encoder.encode_family(&labels)?, value)
        })
    }

    fn descriptor<'p>(&'p mut self, metric: &'p Metric) -> Result<MetricEncoder<'p>, fmt::Error> {
        let unit = metric.unit.map(crate::metric::Unit::encoded);
        self.0.encode_descriptor(metric.name, metric.help, unit, metric.kind.encoded())
    }
}

/// Values of no labels.
pub const NONE: [&str; 0] = [];
