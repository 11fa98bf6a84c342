// Package deltatocumulativeprocessor stands where --enable-feature=otlp-deltatocumulative has its processor. There is none.
package deltatocumulativeprocessor

import "go.opentelemetry.io/collector/processor"

// NewFactory is called where the feature is on.
func NewFactory() processor.Factory { panic("built without otlp-deltatocumulative") }
