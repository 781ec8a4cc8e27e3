// SPDX-License-Identifier: Apache-2.0

// Package leakage measures what those who watch Tarn learn from it: the leakage report.
//
// Problem: that traffic tells nothing cannot be seen by reading code, and a test that compares two traces by eye
// passes whatever leaks elsewhere. So the real node, courier and store run for a day with people who chat (the world,
// in this package's tests), each observer gets exactly the log that it could write ([Log]), and an attacker who knows
// the truth for some nodes learns to guess it for the others. What he reaches is a row of the report: the area under
// the ROC curve, 0.5 is guessing, 1 is certainty.
//
// Every attack is also made on a design that is known to leak (a queue for each contact, an inbox for each node,
// frames without cover; [Simulate]), with the same people and the same code. If it does not reach [ControlAUC] there,
// it is too weak to say anything, and the run fails.
//
// The parts: [Chat] is the people, [Simulate] the leaking designs, [Log] and its features what observers see,
// [Attack] the classifiers with cross-validation by node, [AUC] and its bootstrap the figure, [Report] the table.
//
// Invariants: pure; all chance comes from a seed; a node whose truth the attacker is told is never one that he is
// asked about; intervals come from resampling nodes, not hours, for the hours of a node are alike.
//
// Limit: 0.5 here says that these attacks find nothing, not that none could.
package leakage
