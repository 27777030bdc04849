/**
 * Splits a command line into arguments, at white space. An argument that begins with a quotation mark ends at the next one of
 * its kind; JSON without white space needs none.
 */
export function splitArguments(line: string): string[] {
  const found = line.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)
  return [...found].map(([, single, double, plain]) => single ?? double ?? plain ?? '')
}
