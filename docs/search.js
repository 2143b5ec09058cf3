// Reports come before chapters, and chapters before the API, among pages that match equally well.
var Scorer = {
  score: ([page, , , , score]) => score + (page.startsWith("reports/") ? 10 : page.startsWith("nbs/") ? 2 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
