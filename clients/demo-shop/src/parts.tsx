import { useEffect, useRef, type ReactNode } from 'react';
import { formatCount } from './format';

/** The heading of a page. It gets the focus when the page opens, so that a screen reader begins there, and names the tab. */
export function Heading({ title, storeName, children, isFocused = true }: { title: string; storeName: string; children?: ReactNode; isFocused?: boolean }): ReactNode {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = title === storeName ? title : `${title} · ${storeName}`;
  }, [title, storeName]);
  useEffect(() => {
    const isTyping = document.activeElement instanceof HTMLInputElement;
    if (isFocused && !isTyping) heading.current?.focus({ preventScroll: true });
  }, [isFocused]);
  return (
    <h1 ref={heading} tabIndex={-1}>
      {title} {children}
    </h1>
  );
}

export function Stars({ average, count }: { average: number | null; count?: number }): ReactNode {
  if (average === null) return null;
  const full = Math.round(average);
  return (
    <span className="stars" role="img" aria-label={`${average.toFixed(1)} of 5 stars${count === undefined ? '' : `, ${formatCount(count, 'review')}`}`}>
      <span aria-hidden="true">
        {'★'.repeat(full)}
        {'☆'.repeat(5 - full)}
        {count === undefined ? '' : ` ${count}`}
      </span>
    </span>
  );
}

export function Failure({ error, onRetry }: { error: Error; onRetry: () => void }): ReactNode {
  return (
    <div className="failure" role="alert">
      <p>{error.message}</p>
      <button type="button" onClick={onRetry}>
        Try again
      </button>
    </div>
  );
}

/** The picture of a product; a coloured tile with its initial if it has none. */
export function Picture({ image, title, isFirst = false }: { image: { url: string; alt: string | null; width: number | null; height: number | null } | null; title: string; isFirst?: boolean }): ReactNode {
  if (!image) return <span className="picture picture-none" aria-hidden="true">{title.slice(0, 1)}</span>;
  return (
    <span className="picture">
      {/* A text that only repeats the title beside it would be read out twice. */}
      <img src={image.url} alt={image.alt === title ? '' : (image.alt ?? '')} loading={isFirst ? 'eager' : 'lazy'} decoding="async" />
    </span>
  );
}
